// What is drawn below the lettering, by genre. A motif is a pure function of chance (a seeded generator) and inks, and gives the inside of
// an SVG of 200 × 300. The upper 116 stay sky: there stands the lettering. Nothing anyone wrote comes in here, only numbers and inks.

const CALM = 118;
const n = (value) => Math.round(value * 10) / 10;
const between = (chance, low, high) => low + chance() * (high - low);
const whole = (chance, low, high) => Math.floor(between(chance, low, high + 1));
const pick = (chance, list) => list[Math.floor(chance() * list.length)];
const times = (count, make) => Array.from({ length: count }, (_, place) => make(place)).join("");

const circle = (x, y, r, fill, more = "") => `<circle cx="${n(x)}" cy="${n(y)}" r="${n(r)}" fill="${fill}" ${more}/>`;
const rect = (x, y, w, h, fill, more = "") => `<rect x="${n(x)}" y="${n(y)}" width="${n(w)}" height="${n(h)}" fill="${fill}" ${more}/>`;
const shape = (points, fill, more = "") => `<path d="M${points.map(([x, y]) => `${n(x)} ${n(y)}`).join("L")}Z" fill="${fill}" ${more}/>`;
const line = (d, stroke, width, more = "") => `<path d="${d}" fill="none" stroke="${stroke}" stroke-width="${n(width)}" ${more}/>`;
const mirrored = (chance, art) => (chance() < 0.5 ? art : `<g transform="matrix(-1 0 0 1 200 0)">${art}</g>`);

/** The sky from the lettering down to the horizon. */
const dusk = (ink, until = 235) =>
  `<linearGradient id="d" x1="0" y1="${CALM}" x2="0" y2="${until}" gradientUnits="userSpaceOnUse"><stop stop-color="${ink.sky}"/><stop offset="1" stop-color="${ink.glow}"/></linearGradient><rect width="200" height="300" fill="url(#d)"/>`;
const flat = (ink) => rect(0, 0, 200, 300, ink.sky);
/** A printer's dots, growing towards the bottom. */
const dots = (fill, from, step = 6, opacity = 0.35) =>
  times(Math.ceil((300 - from) / step), (row) => {
    const y = from + row * step, r = (0.62 * step * (row + 1) * step) / (300 - from + step);
    return `<path d="M${row % 2 ? step / 2 : 0} ${n(y)}H206" stroke="${fill}" stroke-width="${n(r * 2)}" stroke-linecap="round" stroke-dasharray="0 ${step}" opacity="${opacity}"/>`;
  });

/** Hills as one smooth line. */
function hills(chance, y, swing, fill) {
  const count = whole(chance, 3, 5), wide = 200 / (count - 1);
  const at = Array.from({ length: count }, (_, place) => [place * wide, y + between(chance, -swing, swing)]);
  const curves = at.slice(1).map(([x, top], place) => `C${n(at[place][0] + wide / 2)} ${n(at[place][1])} ${n(x - wide / 2)} ${n(top)} ${n(x)} ${n(top)}`);
  return `<path d="M0 300V${n(at[0][1])}${curves.join("")}V300Z" fill="${fill}"/>`;
}

/** Mountains as one broken line; `lit`, their sunny sides. */
function peaks(chance, y, swing, fill, lit) {
  const tops = [];
  for (let x = between(chance, -30, 0); x < 220; x += between(chance, 34, 62)) tops.push([x, y - between(chance, 0.3, 1) * swing]);
  const ridge = tops.flatMap(([x, top], place) => (place ? [[(x + tops[place - 1][0]) / 2, y + swing * 0.12], [x, top]] : [[x, top]]));
  const sides = lit ? tops.map(([x, top]) => shape([[x, top], [x + 17, y + swing * 0.5], [x + 3, y + swing * 0.32], [x - 4, y + swing * 0.6]], lit, 'opacity=".5"')).join("") : "";
  return shape([[-40, 300], [-40, y], ...ridge, [240, y], [240, 300]], fill) + sides;
}

const stars = (chance, fill, count, until = 240) =>
  times(count, () => circle(between(chance, 4, 196), between(chance, CALM + 4, until), between(chance, 0.5, 1.5), fill, `opacity="${n(between(chance, 0.4, 1))}"`));

function orbits(chance, ink) {
  const x = between(chance, 62, 138), y = between(chance, 212, 250), r = between(chance, 44, 62), lean = between(chance, -28, 28);
  const bands = times(6, (row) => rect(x - r, y - r + between(chance, 0, 2 * r), 2 * r, between(chance, 3, 11), row % 2 ? ink.far : ink.mid, 'opacity=".55"'));
  const ways = times(3, (step) => `<ellipse cx="${n(x)}" cy="${n(y)}" rx="${n(r * (1.5 + step * 0.42))}" ry="${n(r * (0.32 + step * 0.1))}" fill="none" stroke="${step ? ink.far : ink.glow}" stroke-width="${step ? 1 : 7}"/>`);
  const tilt = `transform="rotate(${n(lean)} ${n(x)} ${n(y)})"`;
  const moon = circle(x + r * 1.75, y - r * 0.35, between(chance, 5, 9), ink.glow);
  return dusk(ink, 330) + stars(chance, ink.letter, 26, 296) + `<clipPath id="p"><circle cx="${n(x)}" cy="${n(y)}" r="${n(r)}"/></clipPath><clipPath id="h"><rect x="-200" y="${n(y)}" width="700" height="300"/></clipPath>`
    + `<clipPath id="c"><rect y="${CALM}" width="200" height="200"/></clipPath><g clip-path="url(#c)"><g ${tilt}>${ways}</g><g clip-path="url(#p)">${circle(x, y, r, ink.sun)}<g ${tilt}>${bands}</g>${circle(x + r * 0.5, y + r * 0.42, r * 1.12, ink.near, 'opacity=".28"')}</g><g ${tilt}><g clip-path="url(#h)">${ways}</g>${moon}</g></g>`;
}

function grid(chance, ink) { // a road of lines to a low sun
  const x = between(chance, 60, 140), y = between(chance, 208, 222), r = between(chance, 48, 66);
  const slits = times(6, (row) => rect(0, y - 6 - row * 9, 200, 5 - row * 0.7, ink.glow));
  const rays = times(17, (step) => line(`M${n(x)} ${n(y)}L${n(x + (step - 8) * 44)} 300`, ink.far, 1.1));
  const across = times(8, (step) => line(`M0 ${n(y + 1.6 * 1.62 ** step)}H200`, ink.far, 1.1));
  return dusk(ink, y) + stars(chance, ink.letter, 18, 180) + `<clipPath id="h"><rect y="${CALM}" width="200" height="${n(y - CALM)}"/></clipPath><g clip-path="url(#h)">${circle(x, y - 8, r, ink.sun)}${slits}</g>` + peaks(chance, y, 26, ink.mid).replace("/>", ' />') + rect(0, y, 200, 100, ink.near) + rays + across;
}

function spires(chance, ink) {
  const moon = circle(between(chance, 50, 150), between(chance, 158, 176), between(chance, 22, 36), ink.sun);
  const base = between(chance, 232, 246), left = between(chance, 24, 84), towers = whole(chance, 3, 6), keep = whole(chance, 1, towers - 2);
  const castle = times(towers, (place) => {
    const tall = Math.max(22, 80 - 24 * Math.abs(place - keep)) * between(chance, 0.75, 1.1), wide = between(chance, 8, 15), x = left + place * 15.5, roof = between(chance, 14, 32);
    return rect(x, base - tall, wide, tall + 40, ink.mid) + shape([[x - 3, base - tall], [x + wide / 2, base - tall - roof], [x + wide + 3, base - tall]], ink.mid) + rect(x + wide / 2 - 1.5, base - tall + 8, 3, 6, ink.sun, 'rx="1.5"');
  });
  return dusk(ink) + stars(chance, ink.letter, 14, 190) + mirrored(chance, moon + peaks(chance, 226, 46, ink.far) + castle + peaks(chance, 262, 30, ink.mid) + hills(chance, 278, 10, ink.near));
}

function isles(chance, ink) { // islands afloat
  const one = (x, y, wide) => `<path d="M${n(x - wide)} ${n(y)}Q${n(x)} ${n(y - wide * 0.22)} ${n(x + wide)} ${n(y)}Q${n(x + wide * 0.45)} ${n(y + wide * 0.45)} ${n(x + wide * 0.1)} ${n(y + wide * 1.15)}Q${n(x - wide * 0.4)} ${n(y + wide * 0.5)} ${n(x - wide)} ${n(y)}Z" fill="${ink.mid}"/><path d="M${n(x - wide)} ${n(y)}Q${n(x)} ${n(y - wide * 0.22)} ${n(x + wide)} ${n(y)}Q${n(x)} ${n(y + wide * 0.3)} ${n(x - wide)} ${n(y)}Z" fill="${ink.far}"/>`
    + times(3, (place) => { const tx = x + (place - 1) * wide * 0.42, tall = wide * between(chance, 0.35, 0.7); return shape([[tx - wide * 0.13, y], [tx, y - tall], [tx + wide * 0.13, y]], ink.near); });
  return dusk(ink, 290) + mirrored(chance, circle(between(chance, 120, 160), between(chance, 150, 168), between(chance, 16, 26), ink.sun) + one(between(chance, 140, 160), 206, 26) + one(between(chance, 66, 84), between(chance, 196, 214), 50) + hills(chance, 284, 8, ink.near));
}

function pines(chance, ink) { // layer behind layer, into the mist
  const row = (y, tall, fill) => { let art = "", x = between(chance, -14, 0); for (; x < 210; x += tall * between(chance, 0.24, 0.46)) { const high = tall * between(chance, 0.62, 1), wide = high * 0.2; art += times(3, (step) => shape([[x - wide * (0.5 + step * 0.25), y - high * (0.62 - step * 0.25)], [x, y - high * (1 - step * 0.24)], [x + wide * (0.5 + step * 0.25), y - high * (0.62 - step * 0.25)]], fill)) + rect(x - 1.2, y - high * 0.14, 2.4, high * 0.3, fill); } return art + rect(0, y - 2, 200, 300 - y + 2, fill); };
  return dusk(ink) + circle(between(chance, 50, 150), between(chance, 164, 186), between(chance, 20, 34), ink.sun) + peaks(chance, 226, 36, ink.glow) + row(232, 40, ink.far) + row(256, 56, ink.mid) + row(288, 84, ink.near);
}

function burst(chance, ink) {
  const x = between(chance, 70, 130), y = between(chance, 214, 232), count = whole(chance, 11, 17), turn = chance() * 6;
  const star = (outer, inner, fill) => shape(Array.from({ length: count * 2 }, (_, step) => {
    const r = (step % 2 ? inner : outer) * (step % 2 ? 1 : 0.8 + 0.2 * Math.abs(Math.sin(step * 2.7 + turn))), angle = turn + (step * Math.PI) / count;
    return [x + r * Math.cos(angle) * 1.12, y + r * Math.sin(angle) * 0.86];
  }), fill);
  return flat(ink) + dots(ink.mid, CALM + 6, 7, 0.5) + star(112, 72, ink.near) + star(98, 58, ink.far) + star(70, 40, ink.sun) + star(40, 22, ink.sky);
}

function shards(chance, ink) {
  const lean = between(chance, 40, 86), blades = whole(chance, 5, 7);
  const art = times(blades, (place) => {
    const x = -60 + place * (250 / blades), wide = between(chance, 16, 34), top = between(chance, CALM + 6, 196);
    return shape([[x + lean, top], [x + lean + wide * 0.3, top - 2], [x + wide, 300], [x - 12, 300]], [ink.far, ink.mid, ink.near, ink.sun][place % 4]);
  });
  return dusk(ink) + circle(between(chance, 60, 140), between(chance, 190, 214), between(chance, 34, 52), ink.sun) + mirrored(chance, art) + shape([[0, 268], [200, 238], [200, 300], [0, 300]], ink.near) + shape([[0, 280], [200, 252], [200, 256], [0, 285]], ink.sun);
}

function ridges(chance, ink) {
  const y = between(chance, 178, 192);
  const way = `<path d="M${n(between(chance, 112, 134))} 236C60 248 150 262 92 276S60 292 70 300H124C110 290 170 272 150 262S112 246 ${n(between(chance, 138, 150))} 236Z" fill="${ink.sun}" opacity=".8"/>`;
  return dusk(ink) + mirrored(chance, circle(between(chance, 56, 144), y - between(chance, 0, 22), between(chance, 22, 34), ink.sun) + peaks(chance, y + 28, 44, ink.far, ink.sun) + hills(chance, 222, 12, ink.mid) + hills(chance, 242, 6, ink.near) + way);
}

function sea(chance, ink) { // a boat under a sun
  const x = between(chance, 60, 140), y = between(chance, 200, 214), boat = x + between(chance, -34, 34);
  const glints = times(11, (row) => { const wide = between(chance, 12, 52 - row * 2.4); return rect(x - wide / 2 + between(chance, -9, 9), y + 6 + row * 8.4, wide, 2.4, ink.sun, 'rx="1.2" opacity=".75"'); });
  return dusk(ink, y) + circle(x, y - 6, between(chance, 32, 46), ink.sun) + rect(0, y, 200, 100, ink.mid) + rect(0, y + 42, 200, 100, ink.near, 'opacity=".5"') + glints
    + `<path d="M${n(boat - 20)} ${n(y + 20)}h40l-7 10h-26z" fill="${ink.near}"/>` + shape([[boat - 1, y - 26], [boat - 1, y + 17], [boat - 20, y + 17]], ink.letter) + shape([[boat + 2, y - 16], [boat + 2, y + 17], [boat + 15, y + 17]], ink.far);
}

function blocks(chance, ink) {
  const side = pick(chance, [40, 50]), colours = [ink.far, ink.mid, ink.sun, ink.near, ink.glow];
  const tile = (x, y) => {
    const [a, b] = [pick(chance, colours), pick(chance, colours)], kind = whole(chance, 0, 5), turn = `transform="rotate(${90 * whole(chance, 0, 3)} ${x + side / 2} ${y + side / 2})"`;
    const inside = [
      `<path d="M${x} ${y}h${side}a${side} ${side} 0 0 1 ${-side} ${side}z" fill="${b}"/>`,
      circle(x + side / 2, y + side / 2, side * 0.36, b),
      `<path d="M${x} ${y}h${side}L${x} ${y + side}z" fill="${b}"/>`,
      `<path d="M${x} ${y}a${side / 2} ${side / 2} 0 0 0 ${side} 0z" fill="${b}"/>`,
      times(3, (row) => rect(x, y + (row * side) / 3 + 2, side, side / 7, b)),
      circle(x + side / 2, y + side / 2, side * 0.44, b) + circle(x + side / 2, y + side / 2, side * 0.2, a),
    ][kind];
    return `<g ${turn}>${rect(x, y, side + 0.3, side + 0.3, a)}${inside}</g>`;
  };
  const rows = side === 50 ? 3 : 4, top = 300 - rows * side;
  return flat(ink) + times(rows, (row) => times(200 / side, (column) => (row || chance() < 0.55 ? tile(column * side, top + row * side) : "")));
}

function parade(chance, ink) { // balloons over hills
  const one = (x, y, r, fill, band) => line(`M${n(x)} ${n(y + r)}q${n(between(chance, -8, 8))} 22 ${n(between(chance, -6, 6))} 46`, ink.letter, 1, 'opacity=".6"') + `<ellipse cx="${n(x)}" cy="${n(y)}" rx="${n(r * 0.86)}" ry="${n(r)}" fill="${fill}"/><ellipse cx="${n(x)}" cy="${n(y)}" rx="${n(r * 0.36)}" ry="${n(r)}" fill="${band}"/>`;
  const art = times(4, (place) => one(28 + place * 48 + between(chance, -8, 8), between(chance, 156, 206), between(chance, 17, 28), [ink.far, ink.sun, ink.mid, ink.far][place], [ink.sun, ink.far, ink.glow, ink.mid][place]));
  return flat(ink) + circle(between(chance, 30, 170), 262, between(chance, 54, 80), ink.glow) + art + hills(chance, 252, 12, ink.mid) + hills(chance, 274, 10, ink.near);
}

function smile(chance, ink) {
  const x = between(chance, 84, 116), y = between(chance, 238, 254), r = between(chance, 86, 100), tilt = between(chance, -14, 14), wink = chance() < 0.4;
  const eye = (at) => `<ellipse cx="${n(at)}" cy="${n(y - r * 0.28)}" rx="8" ry="12" fill="${ink.near}"/>${circle(at + 3, y - r * 0.34, 3, ink.sun)}`;
  return flat(ink) + circle(x, y, r + 10, ink.glow) + circle(x, y, r, ink.far) + `<g transform="rotate(${n(tilt)} ${n(x)} ${n(y)})">${eye(x - 30)}${wink ? line(`M${n(x + 18)} ${n(y - r * 0.28)}q12 -10 24 0`, ink.near, 5, 'stroke-linecap="round"') : eye(x + 30)}<path d="M${n(x - 44)} ${n(y)}h88a44 44 0 0 1 -88 0z" fill="${ink.near}"/><path d="M${n(x - 36)} ${n(y)}h72v8h-72z" fill="${ink.sun}"/></g>`;
}

function scallops(chance, ink) {
  const r = pick(chance, [33.4, 40]), colours = [ink.far, ink.mid, ink.sun, ink.near, ink.glow], rings = whole(chance, 3, 4);
  const fan = (x, y) => { const from = whole(chance, 0, 4); return times(rings, (ring) => circle(x, y, r * (1 - ring / rings), colours[(from + ring) % 5])); };
  const rows = Math.ceil((300 - CALM - r) / (r * 0.62));
  return flat(ink) + times(rows + 2, (row) => times(200 / r / 2 + 2, (column) => fan(column * 2 * r - (row % 2 ? r : 0), CALM + 4 + r + row * r * 0.62)));
}

function city(chance, ink) {
  const layer = (y, fill, lit, wide) => {
    let art = "";
    for (let x = -8; x < 200;) {
      const w = between(chance, wide, wide * 1.9), top = y + between(chance, -30, 22);
      art += rect(x, top, w, 300, fill) + (chance() < 0.4 ? rect(x + w / 2 - 1, top - 14, 2, 15, fill) : "");
      if (lit) for (let wy = top + 7; wy < 292; wy += 10) for (let wx = x + 4; wx < x + w - 6; wx += 8) if (chance() < 0.2) art += rect(wx, wy, 4, 5, ink.sun);
      x += w + between(chance, 0, 4);
    }
    return art;
  };
  return dusk(ink) + circle(between(chance, 40, 160), between(chance, 156, 176), between(chance, 20, 32), ink.sun) + layer(182, ink.far, false, 14) + layer(212, ink.mid, true, 22) + layer(252, ink.near, true, 30);
}

function blinds(chance, ink) { // somebody stands behind them
  const x = between(chance, 64, 136), slats = times(15, (row) => rect(0, CALM + 8 + row * 12.4, 200, 7.6, ink.near));
  const hat = `<path d="M${n(x - 44)} 300c0 -44 10 -58 28 -62v-14c-8 -6 -11 -14 -11 -22h-17c-3 0 -3 -6 2 -8l16 -4 4 -24c1 -6 8 -8 15 -5 5 -3 16 -3 20 2 3 4 4 20 5 27l16 4c5 2 5 8 2 8h-17c0 8 -3 16 -11 22v14c18 4 30 18 30 62z" fill="${ink.near}"/>`;
  return flat(ink) + rect(0, CALM + 4, 200, 200, ink.sun) + circle(x, 214, 74, ink.letter, 'opacity=".25"') + hat + slats;
}

function spiral(chance, ink) {
  const x = between(chance, 80, 120), y = between(chance, 206, 218), way = chance() < 0.5 ? 1 : -1, turns = between(chance, 4.5, 6), stretch = between(chance, 0.84, 1);
  const arm = (phase) => Array.from({ length: 110 }, (_, step) => { const t = step / 109, r = 3 + t * 88, a = way * (phase + t * turns * 2 * Math.PI); return `${n(x + r * Math.cos(a) * 1.06)} ${n(y + r * Math.sin(a) * stretch)}`; }).join("L");
  return flat(ink) + line(`M${arm(0)}`, ink.far, 5.4, 'stroke-linecap="round"') + line(`M${arm(Math.PI)}`, ink.sun, 2.4, 'stroke-linecap="round"') + circle(x, y, 8, ink.sun)
    + `<g transform="translate(${n(x + between(chance, -50, 20))} ${n(between(chance, 236, 254))}) rotate(${n(between(chance, -30, 40))})" fill="${ink.near}"><circle cx="14" cy="0" r="5.5"/><path d="M8 6h12l12 -8 2 4 -13 11 1 12 9 16 -5 2 -10 -14 -10 12 -5 -3 8 -15 -1 -9 -10 8 -3 -4z"/></g>`;
}

function doors(chance, ink) {
  const x = between(chance, 84, 116), arches = 4, colours = [ink.far, ink.mid, ink.near, ink.sun];
  const arch = (r, top, fill) => `<path d="M${n(x - r)} 300V${n(top + r)}a${n(r)} ${n(r)} 0 0 1 ${n(2 * r)} 0V300z" fill="${fill}"/>`;
  const key = circle(x, 212, 7, ink.near) + shape([[x - 3, 214], [x + 3, 214], [x + 7, 236], [x - 7, 236]], ink.near);
  return dusk(ink, 320) + times(arches, (step) => arch(86 - step * 19, CALM + 5 + step * 15, colours[step])) + shape([[x - 29, 270], [x + 29, 270], [x + 96, 300], [x - 96, 300]], ink.sun, 'opacity=".9"') + rect(x - 29, 265, 58, 6, ink.sun) + (chance() < 0.6 ? key : `<path d="M${n(x - 6)} 270v-32c-3 -4 -3 -14 6 -14s9 10 6 14v32z" fill="${ink.near}"/>`);
}

function contours(chance, ink) {
  const x = between(chance, 66, 134), y = between(chance, 200, 228), phases = Array.from({ length: 4 }, () => chance() * 6.3), rings = whole(chance, 11, 14);
  const ring = (r) => Array.from({ length: 49 }, (_, step) => { const a = (step / 48) * 2 * Math.PI, k = 1 + 0.16 * Math.sin(2 * a + phases[0]) + 0.1 * Math.sin(3 * a + phases[1] + r / 40) + 0.05 * Math.sin(5 * a + phases[2]); return `${n(x + r * k * Math.cos(a) * 1.2)} ${n(y + r * k * Math.sin(a))}`; }).join("L");
  const colours = [ink.glow, ink.far, ink.mid];
  return flat(ink) + `<clipPath id="c"><rect y="${CALM + 4}" width="200" height="200"/></clipPath><g clip-path="url(#c)">${rect(0, CALM + 4, 200, 190, ink.glow)}`
    + times(3, (step) => `<path d="M${ring(96 - step * 32)}Z" fill="${colours[step]}" opacity="${step ? 0.75 : 0.5}"/>`) + times(rings, (step) => line(`M${ring(8 + step * 10.5)}Z`, ink.near, step % 4 ? 0.8 : 1.7)) + "</g>" + circle(x, y, 6, ink.sun) + line(`M${n(x)} ${n(y)}v-26`, ink.sun, 2) + shape([[x, y - 27], [x + 17, y - 21], [x, y - 15]], ink.sun);
}

function halftone(chance, ink) { // a globe of dots
  const x = between(chance, 70, 130), y = between(chance, 214, 226), r = between(chance, 74, 88), lx = between(chance, -0.6, 0.6), step = 8.4;
  let art = "";
  for (let dy = -r; dy <= r; dy += step) for (let dx = -r, k = 0; dx <= r; dx += step, k++) {
    const z2 = 1 - (dx * dx + dy * dy) / (r * r);
    if (z2 <= 0.02) continue;
    const light = Math.max(0, (lx * dx) / r - (0.5 * dy) / r + 0.62 * Math.sqrt(z2));
    art += circle(x + dx, y + dy, 0.6 + 3.6 * Math.min(1, light), light > 0.62 ? ink.sun : ink.far);
  }
  return flat(ink) + circle(x, y, r + 4, ink.near) + art;
}

function discs(chance, ink) {
  const y = between(chance, 226, 240), r = between(chance, 40, 54), x = between(chance, 60, 84), apart = between(chance, 38, 62);
  const pair = circle(x, y - 22, r, ink.far) + circle(x + apart, y - 22, r * between(chance, 0.7, 1), ink.sun, 'opacity=".85"');
  const glints = times(7, (row) => rect(x - r + row * 4, y + 8 + row * 9, apart + 2 * r - row * 9, 3, row % 2 ? ink.sun : ink.far, 'opacity=".7"'));
  return dusk(ink) + `<clipPath id="h"><rect width="200" height="${n(y)}"/></clipPath>` + mirrored(chance, `<g clip-path="url(#h)">${pair}</g>${rect(0, y, 200, 100, ink.mid)}${glints}`);
}

function fields(chance, ink) { // colour upon colour
  const tall = [between(chance, 42, 70), between(chance, 22, 44)], colours = [ink.far, ink.sun, ink.mid];
  let y = CALM + 8;
  const art = [...tall, 282 - y - tall[0] - tall[1] - 12].map((h, place) => { const made = rect(16, y, 168, h, colours[place], 'rx="3"') + rect(20, y + 4, 160, h - 8, colours[place], 'stroke="#fff" stroke-opacity=".07" stroke-width="5"'); y += h + 6; return made; }).join("");
  const figure = between(chance, 56, 144);
  return flat(ink) + art + `<g fill="${ink.near}">${circle(figure, 226, 5.2, ink.near)}<path d="M${n(figure - 6)} 282l1 -26 -3 -2 3 -18c1 -5 9 -5 10 0l3 18 -3 2 1 26z"/></g>` + shape([[figure - 6, 282], [figure + 6, 282], [figure + 44, 300], [figure + 14, 300]], ink.near, 'opacity=".3"');
}

function stairs(chance, ink) {
  const steps = whole(chance, 6, 8), wide = 200 / steps, rise = 140 / steps;
  const art = times(steps, (step) => rect(step * wide, 288 - (step + 1) * rise, wide + 1, 300, step % 2 ? ink.mid : ink.far) + shape([[step * wide, 288 - (step + 1) * rise], [(step + 1) * wide, 288 - (step + 1) * rise], [step * wide, 288 - step * rise]], ink.near, 'opacity=".35"'));
  return dusk(ink) + mirrored(chance, circle(between(chance, 44, 74), between(chance, 164, 184), between(chance, 20, 30), ink.sun) + art + rect(0, 286, 200, 20, ink.near));
}

function woods(chance, ink) {
  const moon = circle(between(chance, 56, 144), between(chance, 168, 188), between(chance, 34, 48), ink.sun);
  const tree = (x, wide, top, fill) => shape([[x - wide, 300], [x - wide * 0.4, top], [x + wide * 0.3, top + 3], [x + wide, 300]], fill)
    + times(5, (step) => { const y = top + 12 + step * 19, way = step % 2 ? 1 : -1, far = between(chance, 12, 30); return line(`M${n(x)} ${n(y + 9)}q${n(way * far * 0.5)} ${n(-4)} ${n(way * far)} ${n(-between(chance, 10, 22))}m${n(-way * far * 0.4)} 8l${n(way * 3)} -12`, fill, wide * 0.34, 'stroke-linecap="round"'); });
  const row = (count, wide, top, fill) => times(count, (place) => tree(((place + between(chance, 0.2, 0.8)) * 200) / count, wide * between(chance, 0.7, 1.2), top + between(chance, 0, 26), fill));
  return dusk(ink) + moon + row(6, 3.4, 146, ink.far) + rect(0, 238, 200, 62, ink.glow, 'opacity=".35"') + row(4, 6, 130, ink.mid) + row(2, 10, CALM + 6, ink.near) + hills(chance, 282, 6, ink.near);
}

function house(chance, ink) { // on a hill, one window lit
  const x = between(chance, 70, 110), y = 236;
  const walls = rect(x, y - 46, 44, 60, ink.near) + shape([[x - 6, y - 46], [x + 22, y - 74], [x + 50, y - 46]], ink.near) + rect(x + 40, y - 66, 18, 80, ink.near) + shape([[x + 36, y - 66], [x + 49, y - 98], [x + 62, y - 66]], ink.near) + rect(x + 32, y - 72, 6, 20, ink.near);
  const windows = rect(x + 45, y - 56, 7, 11, ink.sun) + (chance() < 0.5 ? rect(x + 10, y - 34, 8, 11, ink.sun) : rect(x + 24, y - 34, 8, 11, ink.sun));
  const birds = times(5, () => { const bx = between(chance, 20, 180), by = between(chance, 126, 160); return line(`M${n(bx)} ${n(by)}q4 -5 7 0q3 -5 7 0`, ink.near, 1.6); });
  return dusk(ink) + mirrored(chance, circle(x + 30, 186, between(chance, 50, 62), ink.sun, 'opacity=".9"') + walls + `<path d="M0 300V282C40 274 60 ${y} 96 ${y - 8}S170 250 200 276V300Z" fill="${ink.near}"/>` + windows) + birds;
}

function record(chance, ink) {
  const x = between(chance, 84, 128), y = between(chance, 218, 236), r = between(chance, 84, 96), turn = n(between(chance, 0, 90));
  const sheen = times(2, (side) => `<path d="M0 0L${n(r)} -14A${n(r)} ${n(r)} 0 0 1 ${n(r)} 14Z" fill="${ink.letter}" opacity=".12" transform="translate(${n(x)} ${n(y)}) rotate(${turn + side * 180})"/>`);
  return flat(ink) + dots(ink.far, CALM + 10, 8, 0.4) + circle(x, y, r, ink.near) + times(9, (step) => circle(x, y, r - 7 - step * 6, "none", `stroke="${ink.mid}" stroke-width=".9" opacity=".8"`)) + sheen + circle(x, y, 30, ink.sun) + `<path d="M${n(x - 30)} ${n(y)}a30 30 0 0 0 60 0z" fill="${ink.far}"/>` + circle(x, y, 4, ink.sky);
}

function waves(chance, ink) { // one line behind the other
  const peak = between(chance, 76, 124), spread = between(chance, 24, 34);
  return dusk(ink, 330) + times(15, (row) => {
    const y = 158 + row * 9.6, at = Array.from({ length: 41 }, (_, step) => { const x = step * 5, tall = Math.exp(-(((x - peak) / spread) ** 2)) * (26 + 8 * chance()) + Math.exp(-(((x - peak - 34) / 16) ** 2)) * 9; return `${n(x)} ${n(y - tall * (0.35 + 0.65 * chance()))}`; });
    return `<path d="M0 310V${n(y)}L${at.join("L")}L200 ${n(y)}V310Z" fill="${row % 5 === 2 ? ink.mid : ink.near}" stroke="${row % 5 === 2 ? ink.sun : ink.far}" stroke-width="1.6" stroke-linejoin="round"/>`;
  });
}

function bars(chance, ink) { // an equaliser
  const count = pick(chance, [8, 10]), wide = 200 / count, phase = chance() * 6;
  return flat(ink) + times(count, (place) => { const lit = 4 + Math.round(5 * Math.abs(Math.sin(phase + place * 0.7)) + 3 * chance()); return times(lit, (step) => rect(place * wide + 2, 288 - step * 13.6, wide - 4, 10, step === lit - 1 ? ink.sun : step > 6 ? ink.far : ink.mid, 'rx="2"')); });
}

function petals(chance, ink) {
  const x = between(chance, 74, 126), y = between(chance, 204, 218), count = whole(chance, 7, 10), turn = chance() * 40;
  const flower = (r, wide, fill, shift) => times(count, (step) => `<ellipse cx="${n(x)}" cy="${n(y - r * 0.6)}" rx="${n(wide)}" ry="${n(r * 0.42)}" fill="${fill}" opacity=".82" transform="rotate(${n(turn + shift + (360 / count) * step)} ${n(x)} ${n(y)})"/>`);
  return dusk(ink, 320) + line(`M${n(x)} ${n(y)}C${n(x + 8)} 250 ${n(x - 12)} 270 ${n(x + between(chance, -16, 16))} 302`, ink.near, 5) + `<path d="M${n(x)} 276q34 -34 52 -16 -14 28 -52 16z" fill="${ink.near}"/>` + flower(84, 20, ink.mid, 0) + flower(68, 17, ink.far, 180 / count) + flower(44, 12, ink.sun, 0) + circle(x, y, 11, ink.near) + circle(x, y, 5, ink.sun);
}

function pair(chance, ink) { // two that overlap
  const y = between(chance, 204, 216), r = between(chance, 50, 60), apart = between(chance, 22, 34), lean = between(chance, -30, 30);
  return dusk(ink, 320) + dots(ink.far, 214, 7, 0.5) + `<g transform="rotate(${n(lean)} 100 ${n(y)})">${circle(100 - apart, y, r, ink.far)}${circle(100 + apart, y, r, ink.mid)}<clipPath id="p">${circle(100 - apart, y, r, "#000")}</clipPath><g clip-path="url(#p)">${circle(100 + apart, y, r, ink.sun)}</g></g>`;
}

function mesa(chance, ink) {
  const y = 250, butte = (x, wide, top, fill) => shape([[x - wide * 1.5, y + 8], [x - wide * 0.95, y - (y - top) * 0.42], [x - wide * 0.78, y - (y - top) * 0.5], [x - wide * 0.7, top], [x + wide * 0.66, top + 2], [x + wide * 0.74, y - (y - top) * 0.5], [x + wide, y - (y - top) * 0.4], [x + wide * 1.6, y + 8]], fill);
  const cx = between(chance, 26, 60);
  const cactus = line(`M${n(cx)} 296V232M${n(cx)} 272h-13v-17M${n(cx)} 262h14v-20`, ink.near, 8, 'stroke-linecap="round" stroke-linejoin="round"');
  return dusk(ink) + mirrored(chance, circle(between(chance, 80, 150), between(chance, 192, 214), between(chance, 44, 58), ink.sun) + butte(between(chance, 126, 156), between(chance, 26, 38), between(chance, 158, 180), ink.far) + butte(between(chance, 40, 70), 18, 202, ink.far) + rect(0, y, 200, 60, ink.mid) + hills(chance, 274, 5, ink.near) + cactus);
}

function chevrons(chance, ink) {
  const colours = [ink.far, ink.mid, ink.near, ink.sun], high = between(chance, 14, 22), point = between(chance, 84, 116);
  return dusk(ink) + circle(point, between(chance, 170, 184), between(chance, 26, 36), ink.sun) + times(6, (step) => { const y = 196 + step * high; return shape([[0, y + 34], [point, y], [200, y + 34], [200, 320], [0, 320]], colours[(step + (step === 4 ? 1 : 0)) % 3 === 0 && step === 3 ? 3 : step % 3]); });
}

function tiles(chance, ink) { // arcs that join
  const side = 40, colours = [ink.far, ink.mid];
  return flat(ink) + times(4, (row) => times(5, (column) => { const x = column * side, y = 140 + row * side, flip = chance() < 0.5; return rect(x, y, side + 0.3, side + 0.3, (row + column) % 2 ? ink.glow : ink.sky) + `<g transform="rotate(${flip ? 90 : 0} ${x + 20} ${y + 20})">${line(`M${x + 20} ${y}A20 20 0 0 1 ${x} ${y + 20}M${x + 40} ${y + 20}A20 20 0 0 0 ${x + 20} ${y + 40}`, colours[(row + column) % 2], 11)}</g>`; })) + circle(pick(chance, [40, 80, 120, 160]), pick(chance, [180, 220, 260]), 15, ink.sun);
}

export const MOTIFS = {
  action: [burst, shards], adventure: [ridges, sea, pines], animation: [blocks, parade], comedy: [smile, scallops, parade], crime: [city, blinds],
  documentary: [contours, halftone], drama: [discs, fields, stairs, pair, sea], fantasy: [spires, isles, pines, ridges], horror: [woods, house], music: [record, waves, bars],
  mystery: [doors, city], romance: [petals, pair, sea], "science fiction": [orbits, grid], thriller: [spiral, stairs], war: [chevrons, shards],
  western: [mesa], other: [tiles, blocks],
};
