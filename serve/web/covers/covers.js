// A cover for anything that has a title: its genres give the inks and the motif, the title the composition and the printing. The same item
// has the same cover everywhere and always. The art holds no lettering: the title stands over it as text of the page.

import { family, printings } from "./inks.js";
import { MOTIFS } from "./motifs.js";

const WIDE = 172, HIGH = 100; // of the lettering, in the units of the art, which is 200 × 300
const SIZES = [34, 31, 28, 25, 22, 19, 17, 15, 13];
const FACES = { // how wide a letter is against its height, somewhat more than on the average
  poster: 0.76, serif: 0.56, narrow: 0.57, plain: 0.6,
};
const FACE_OF = { action: "narrow", adventure: "serif", animation: "plain", comedy: "plain", crime: "narrow", documentary: "plain", drama: "serif", fantasy: "serif", horror: "serif", music: "poster", mystery: "serif", romance: "serif", "science fiction": "poster", thriller: "narrow", war: "narrow", western: "serif", other: "plain" };
const made = new Map();

/** A number of 32 bits of a text (FNV-1a). */
export function hashed(text) {
  let hash = 0x811c9dc5;
  for (const letter of text) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193);
  return hash >>> 0;
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function chances(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** The largest size at which a title fits its place, word by word; the smallest where none does. */
export function sizeOf(title, face) {
  const words = title.split(/\s+/), em = FACES[face];
  return SIZES.find((size) => {
    const most = WIDE / (size * em);
    let lines = 1, room = most;
    for (const word of words) {
      if (word.length > most) return false;
      if (word.length > room) [lines, room] = [lines + 1, most];
      room -= word.length + 1;
    }
    return lines * size * 1.06 <= HIGH;
  }) ?? SIZES.at(-1);
}

/** {src, sky, letter, face, size, centred} of an item: `src()` draws the art as a data URI, the rest says how its title is lettered. */
export function coverOf({ item_id, title, genres = [] }) {
  const key = `${item_id}\n${title}\n${genres}`;
  if (!made.has(key)) made.set(key, draw(title, genres));
  return made.get(key);
}

function draw(title, genres) {
  const seed = hashed(title) ^ hashed(genres.join("|")), chance = chances(seed);
  const named = [...new Set(genres.map(family))].slice(0, 2);
  const [first, second] = [named[0] ?? "other", named[1] ?? named[0] ?? "other"];
  const [inked, drawn] = chance() < 0.7 ? [first, second] : [second, first];
  const inks = printings(inked), ink = inks[Math.floor(chance() * inks.length)];
  const motifs = MOTIFS[chance() < 0.5 ? inked : drawn], motif = motifs[Math.floor(chance() * motifs.length)];
  let src; // drawn once, and not before it is looked at
  const art = () => `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 300">${motif(chances(~seed), ink)}</svg>`;
  const face = FACE_OF[inked];
  return { src: () => (src ??= `data:image/svg+xml,${encodeURIComponent(art())}`), sky: ink.sky, letter: ink.letter, face, size: sizeOf(title, face), centred: chance() < 0.3 };
}
