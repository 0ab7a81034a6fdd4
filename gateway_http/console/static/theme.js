// Light or dark: as the system says, unless this browser was told otherwise. Nothing else is kept in it.

const KEY = "junctor.theme";
const CHOICES = ["auto", "light", "dark"];

export function startTheme(select) {
  let chosen = "auto";
  try {
    chosen = localStorage.getItem(KEY) ?? "auto";
  } catch { /* storage is off */ }
  if (!CHOICES.includes(chosen)) chosen = "auto";
  select.value = chosen;
  show(chosen);
  select.addEventListener("change", () => {
    show(select.value);
    try {
      localStorage.setItem(KEY, select.value);
    } catch { /* for this visit, then */ }
  });
}

function show(choice) {
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}
