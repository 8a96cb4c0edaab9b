// Light, dark, or what the system says. Runs before the first paint; `littoralTheme` is its one name for the modules.
"use strict";

const littoralTheme = (() => {
  const NAME = "littoral.theme";
  const THEMES = ["system", "light", "dark"];

  const stored = () => {
    try {
      const theme = localStorage.getItem(NAME);
      return THEMES.includes(theme) ? theme : "system";
    } catch {
      return "system";
    }
  };

  let current = stored();
  const show = () => document.documentElement.setAttribute("data-theme", current);
  show();

  return {
    get current() {
      return current;
    },
    /** Turns to the next theme and returns it. */
    next() {
      current = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
      show();
      try {
        localStorage.setItem(NAME, current);
      } catch {
        // Without storage the choice holds until the page is left.
      }
      return current;
    },
  };
})();
window.littoralTheme = littoralTheme;
