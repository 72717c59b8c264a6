// Art is drawn when it is about to be seen: an SVG is a document to the browser, and a page of fifty at once keeps it from painting one.

import { noChange } from "../vendor/lit-html/lit-html.js";
import { Directive, directive } from "../vendor/lit-html/directive.js";

const MARGIN = "300px";
const wanted = new WeakMap();
const watcher = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    target.src = wanted.get(target).src();
  }
}, { rootMargin: MARGIN, scrollMargin: MARGIN });

/** For an <img>: shows a cover of `coverOf`, from when it is near the screen. */
export const art = directive(class extends Directive {
  render() {
    return noChange;
  }

  update({ element }, [drawn]) {
    if (wanted.get(element) === drawn) return noChange;
    wanted.set(element, drawn);
    watcher.unobserve(element); // looked at before: look again
    watcher.observe(element);
    return noChange;
  }
});
