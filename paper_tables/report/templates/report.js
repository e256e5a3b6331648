"use strict";
(() => {
  // What an address points at may be folded.
  const reveal = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (!target) return;
    target.hidden = false;
    for (let node = target; node; node = node.parentElement) {
      if (node.tagName === "DETAILS") { node.open = true; node.hidden = false; }
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) setTimeout(reveal);
  });
  reveal();

  // On paper everything that is shown by default stays; nothing else is unfolded.
  for (const form of document.querySelectorAll("form.filter")) {
    form.hidden = false;
    const groups = [...form.parentElement.querySelectorAll(".judgement")];
    const choice = (name) => form.elements[name].value;
    const apply = () => {
      let judgements = 0;
      let claims = 0;
      for (const group of groups) {
        let shown = 0;
        for (const item of group.querySelectorAll("li")) {
          const match = (!choice("paper") || item.dataset.paper === choice("paper"))
            && (!choice("section") || item.dataset.section === choice("section"));
          item.hidden = !match;
          shown += match;
        }
        group.hidden = !shown || Boolean(choice("verdict") && group.dataset.verdict !== choice("verdict"));
        if (!group.hidden) { judgements += 1; claims += shown; }
      }
      form.querySelector("output").textContent =
        `${judgements} judgement${judgements === 1 ? "" : "s"}, ${claims} claim${claims === 1 ? "" : "s"} shown`;
    };
    const fold = (open) => () => { for (const group of groups) if (!group.hidden) group.open = open; };
    form.addEventListener("change", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.elements.open.addEventListener("click", fold(true));
    form.elements.close.addEventListener("click", fold(false));
    apply();
  }
})();
