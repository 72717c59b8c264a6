// The inks of a cover by genre, three or four printings of each: sky (where the lettering stands), glow (the sky near the horizon), far, mid, near,
// sun, and the colour of the lettering, which stands out from its sky by at least 4.5 to 1 (a test measures it).

const NAMES = ["sky", "glow", "far", "mid", "near", "sun", "letter"];
const printed = (line) => Object.fromEntries(line.split(" ").map((hex, place) => [NAMES[place], `#${hex}`]));

const INKS = {
  action: ["c9211b f0562b ffa62b 8a0f14 1c0a0c ffe08a ffffff", "12161c 313b48 ff4d2e b81c1c 07090c ffc933 ffffff", "ffd21f ffab00 f2541b b8121d 1b1b1b fff7e0 1b1b1b", "f3eee3 e3d3b8 d7261e 3a3a3a 161616 ff8f1f 1b1b1b"],
  adventure: ["f6c667 f08a4b d9643a a8442f 4f2323 fff1c9 3b1c14", "134e6f 56aeb0 3c8a7e 1f5f5b 0d3235 ffe29a fdf8e7", "e8efe0 bcd3b0 7fa77a 47755a 21443c f26b38 1d3a33", "5b2333 c8553d e07a5f 8a3a3a 2b0f18 ffd9a0 fff1e3"],
  animation: ["ffe9d6 ffcfae ff6f59 254441 43aa8b ffb238 1f2f2e", "3d2fbf 5b4be0 ff7ab6 22d3c5 1f1670 ffd23f ffffff", "0b6463 128a88 ffcf56 f25f5c 063b3d fff1d0 fffaf0", "f7f4ea d9efe6 ff8a5b 2d6cdf 1b2a6b ffc93c 1b2a6b"],
  comedy: ["ffd84d ffc21a ff7b54 1f3a93 0f1f57 fffbe9 14224f", "f7f0e4 f4dcc0 ef476f 118ab2 073b4c ffd166 0b3442", "b8175a e0447e ff9f68 7a0f45 470730 ffdf8e fff6ec", "0b6e78 17a0a8 ffd166 ef476f 063940 fff3d6 ffffff"],
  crime: ["14213d 34507f 3d5580 1b2b4d 0a1122 fca311 f7f4ec", "2b2d2f 66696d 6e7175 3c3f42 121314 f2c14e f5f3ee", "e9e4d8 cfc6b2 8c8371 3f3a33 161412 c1272d 1a1815", "3a1c1c 7a3b2e a85a3a 4a2622 180b0b ffc857 fbf0e4"],
  documentary: ["f1ede4 dcd3c1 7a9e9f 40666b 1f3538 d9622b 1f3033", "123a3f 1d5b5e 3f8f89 8fc1b5 0b2427 f4a261 eef7f2", "2f3e2c 50684a 86a06f c3c88f 1b2519 e9c46a f6f5e3"],
  drama: ["ede3da d9b8a5 a4574b 5e3a3f 2c2027 e2a33b 2c2027", "31445c 7d92a8 93a5b5 4c617a 182433 f0c6a4 f5f1ea", "5b1f2b 96404a c56f60 7a2b38 2a0d15 f3c98b fdf1e3", "f2e6d0 e9c39b 2a6f77 1d4a52 10282d d9572b 14323a"],
  fantasy: ["2b1a4f 9a5bb0 6b3f94 43296f 1e1238 ffd9a0 fff3e0", "0b3b3c 6fb585 3f8f7a 1f6460 0a2b30 f6e27f f3fbe9", "f6dfe1 f0b4a8 b56576 6d597a 355070 fff3cf 2f2440", "12264a 5a8ec7 3a6ea5 24497a 0c1a33 ffe8b0 f2f6ff"],
  horror: ["120b10 4a101b 5e1420 280c14 050305 d3122f f5e6e0", "0f1f1a 3a5c4a 3d5f49 1a332a 050b09 c9d66b eef3df", "dcd6cc b9afa1 8a2222 3a2a2a 120d0d 9d0f17 1b1212"],
  music: ["1b1035 57238a e0337f 7b2ff7 0c0720 ffb100 fff3fb", "f5eee2 ead2ac e4572e 29335c 141a33 f3a712 161c38", "0b4b4a 12807a 3fbf9f ffcf56 052a2a ff6b57 f2fff9", "fff0e0 ffd2b0 ef5d60 3d2c8d 1c1650 ffb400 1c1650"],
  mystery: ["1d2b3a 4a6b82 2f4a5e 1a2835 0b1117 f2d479 f2efe3", "3a2140 7c4c82 52305a 331c39 150b18 e9b44c fbf0e4", "d9e0d2 a8b9a4 5d7a6a 344c43 16231f d1603d 1c2b26"],
  romance: ["fbe3e0 f7b7b2 e56b6f b0475e 5f1f3b fff2d8 4a1730", "6a1f4b c0457a e86a83 8f2b5c 35102a ffd6a5 fff0ec", "2f3061 7d70b8 b57bb0 4a3f86 1a1a3d ffb4a2 fdeff2", "fdf0d5 f9cfa8 e0777d 8e3b46 4c1d2a fff8ee 4c1d2a"],
  "science fiction": ["0f1033 4a3590 5b3fa0 2a1f66 0a0a24 ff7a59 f4f0ff", "06252e 0f6a70 1b8a86 0c4450 04161c ffd166 e9fbf7", "f2e9dc f7c59f e4572e 2e4057 17202a 17a398 17202a", "3b0a45 8e2a7e c2438f 5a1763 1d0424 ffd36e fdeaff"],
  thriller: ["e5471f f26a2e 1a1a1a 7e1d10 0d0d0d fff3e3 140a08", "0e1a24 1c4a5c 2f6475 132c39 060c11 ff3f34 eaf4f4", "ece6d6 d3c8ae 232323 8b1e1e 111111 c81d25 181818"],
  war: ["434b3a 848a6a 5c6349 383f30 1a1e16 e3c16f f4f1df", "2d3640 67747f 414d59 222a32 0f1317 d1495b eef1f2", "d8cfb4 b8a77e 7b6b43 4a4229 211d12 a4301f 242014"],
  western: ["f4d6a0 ee9b4f c8553d 8c2f2a 3d1714 fff0c2 41170f", "1f4e6b e08e45 b24a2e 7a2c22 2e120f ffd98a fff4de", "a83c26 e58440 7c2a1e 4e1a15 250c0a ffd07a fff2df"],
  other: ["e6e9ee c9d1dc 7c8da6 445572 1b2638 ef8354 1b2638", "20313f 3d5a6c 5f8297 2f4858 0f1a23 f6ae2d f1f5f7", "3b2f4a 6d5a80 9a86ab 54426a 1a1424 8bd3c7 f6f1fa"],
};

const FAMILIES = { "sci-fi": "science fiction", scifi: "science fiction", musical: "music", children: "animation", kids: "animation", family: "animation", "film-noir": "crime", noir: "crime", imax: "documentary", history: "drama", biography: "drama", sport: "action", superhero: "action" };

/** The family of a genre, whatever its case: one of INKS; "other" for a genre that nothing is known of. */
export function family(genre) {
  const name = genre.toLowerCase();
  const known = FAMILIES[name] ?? name;
  return Object.hasOwn(INKS, known) ? known : "other";
}

export const families = Object.keys(INKS);
export const printings = (name) => INKS[name].map(printed);
