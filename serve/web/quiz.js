// The quiz for somebody new: each question is the title whose answer tells most after those before it. At its end it is their page.

import { html, render, nothing } from "./vendor/lit-html/lit-html.js";
import { ask, userPath } from "./api.js";
import { cover, remember } from "./cards.js";
import { cross, heart, ask as sign } from "./icons.js";
import { announce, told, trouble } from "./say.js";

const LEAST = 5, MOST = 10; // questions, as the server asks them
const quiz = { user_id: "", answers: [], question: null, failed: null, busy: false, over: false };
let done;

/** Begin the quiz for a user, or for a new name where it is empty. `finished(user_id)` is called when the answers were kept. */
export function beginQuiz(user_id, finished) {
  done = finished;
  Object.assign(quiz, { user_id: user_id || `guest-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`, answers: [], question: null, failed: null, over: false });
  return next();
}

async function next() {
  await whole(async () => {
    const { question } = await ask("/v1/quiz", { body: { answers: quiz.answers } });
    quiz.question = question;
    if (question === null) quiz.over = true;
    else {
      remember(question);
      announce(`Question ${quiz.answers.length + 1}: ${question.title}`);
    }
  });
  if (quiz.over && !quiz.failed) await finish();
}

function answer(liked) {
  if (quiz.busy || !quiz.question) return;
  quiz.answers.push({ item_id: quiz.question.item_id, liked });
  next();
}

function back() {
  quiz.over = false;
  quiz.answers.pop();
  next();
}

const finish = () => whole(async () => {
  await ask(userPath(quiz.user_id, "/quiz"), { body: { answers: quiz.answers } });
  done(quiz.user_id);
});

async function whole(what) {
  Object.assign(quiz, { busy: true, failed: null });
  draw();
  try {
    await what();
  } catch (error) {
    quiz.failed = await told(error);
  }
  quiz.busy = false;
  draw();
}

export const again = () => (quiz.over ? finish() : next());

/** Arrows answer: right is like, left is not, down is "don't know". */
export function keyed(event) {
  const liked = { ArrowRight: true, ArrowLeft: false, ArrowDown: null }[event.key];
  if (liked === undefined || event.target.matches("input")) return;
  event.preventDefault();
  answer(liked);
}

function draw() {
  const { question, answers, failed, busy } = quiz, said = answers.length;
  render(html`<button type="button" class="close" data-close aria-label="Close">${cross()}</button>
    <div class="quiz">
      <p class="over">Somebody new</p>
      <h2 id="quiz-title">What do you make of these?</h2>
      <label class="field">Your name here<input name="guest" .value=${quiz.user_id} maxlength="256" autocomplete="off" spellcheck="false" @change=${(event) => { quiz.user_id = event.target.value.trim() || quiz.user_id; }}></label>
      <div class="progress"><progress max=${MOST} value=${said} aria-label="Questions answered"></progress><span>${said ? `${said} answered, ${said < LEAST ? `at least ${LEAST - said} to go` : "nearly there"}` : `${LEAST} to ${MOST} questions`}</span></div>
      ${failed ? html`${trouble(failed)}<button type="button" class="solid" data-do="quiz-again">Try again</button>` : html`
      <div class="question" aria-busy=${busy ? "true" : "false"}>${question ? html`<div class="large">${cover(question)}</div><p class="genres">${question.genres.map((genre) => html`<span>${genre}</span>`)}</p>` : html`<div class="large bones"><b></b></div><p class="genres"></p>`}</div>
      <div class="answers" role="group" aria-label=${question ? `What do you make of ${question.title}?` : "Answers"}>
        <button type="button" @click=${() => answer(false)}>${cross()}<span>Not for me</span></button>
        <button type="button" @click=${() => answer(null)}>${sign()}<span>Don't know it</span></button>
        <button type="button" class="yes" @click=${() => answer(true)}>${heart()}<span>Like it</span></button>
      </div>`}
      <p class="steps">${said ? html`<button type="button" class="quiet" @click=${back}>Back</button>` : nothing}${said ? html`<button type="button" class="quiet" @click=${finish}>That is enough, show my page</button>` : html`<span class="hint">With the keys: ← not for me, ↓ don't know, → like</span>`}</p>
    </div>`, document.getElementById("quiz"));
}
