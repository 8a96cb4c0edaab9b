// Follows the answer while the reader is at the end, and leaves them in peace anywhere else.

/** This close to the end counts as being there, pixels. */
const NEAR = 80;

const root = document.documentElement;
const atEnd = () => root.scrollHeight - root.clientHeight - root.scrollTop <= NEAR;

export const toLatest = () => root.scrollTo({ top: root.scrollHeight, behavior: "instant" });

/** Makes `button` lead back to the end whenever the reader has left it. */
export function begin(button) {
  const show = () => (button.hidden = atEnd());
  addEventListener("scroll", show, { passive: true });
  addEventListener("resize", show);
  button.addEventListener("click", () => {
    toLatest();
    document.getElementById("prompt").focus();
  });
}

/** Runs `draw`, which makes the page longer; a reader at the end stays at the end. */
export function following(draw) {
  const follow = atEnd();
  draw();
  if (follow) toLatest();
}
