"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const answer = document.getElementById("answer");
  if (!answer) return;
  const card = document.getElementById("token-card");
  const panel = card.parentElement;
  const sources = document.getElementById("sources");
  const sentences = [...answer.querySelectorAll(".sentence")];
  const tokens = [...answer.querySelectorAll(".token")];
  const columns = matchMedia("(min-width: 64rem)");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const MOST = 6;
  let current = null; // token whose card is shown
  let lit = null; // sentence whose sources are lit

  // Texts come from documents: they only ever become text nodes.
  const make = (tag, name, ...children) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  };
  const visible = (text) => text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "(part of a character)";

  const branch = ([name, rows]) => {
    const list = make("ul", "");
    for (const [text, percent, share, chosen] of rows) {
      const bar = make("progress", "");
      bar.max = 1;
      bar.value = share;
      bar.setAttribute("aria-hidden", "true");
      list.append(make("li", chosen ? "chosen" : "", make("bdi", "", visible(text)), bar, make("span", "figure", percent)));
    }
    return make("div", name, make("h3", "", `${name} branch`), list);
  };

  const show = (token) => {
    if (token === current) return;
    hide();
    current = token;
    token.classList.add("current");
    const detail = data.tokens[Number(token.dataset.token)];
    const facts = detail.facts.map(([name, value]) => make("span", "", `${name} `, make("b", "", value)));
    const close = make("button", "", "×");
    close.type = "button";
    close.setAttribute("aria-label", "close");
    close.addEventListener("click", hide);
    card.replaceChildren(
      make("p", "word", make("bdi", "", visible(detail.text))),
      make("p", "facts", ...facts),
      make("div", "branches", ...detail.branches.map(branch)),
      close,
    );
    card.hidden = false;
    document.body.classList.add("has-card");
    place(token);
  };

  // On wide screens the card lies below the whole answer, or above it where there is no room: it hides no line of what is
  // being read. Where the answer fills the window, it lies at the end of the window that is farther from the word.
  const GAP = 8;
  const place = (token) => {
    const box = panel.getBoundingClientRect();
    const text = answer.getBoundingClientRect();
    const [line] = token.getClientRects();
    const room = card.offsetHeight + GAP;
    let top = text.bottom + GAP;
    if (text.bottom + GAP + room > innerHeight) {
      if (text.top >= room + GAP) top = text.top - room;
      else if (line.top + line.bottom > innerHeight) top = Math.min(GAP, line.top - room);
      else top = Math.max(innerHeight - room, line.bottom + GAP);
    }
    const left = Math.max(0, Math.min(line.left - box.left - 12, box.width - card.offsetWidth - 2));
    card.style.setProperty("--x", `${left}px`);
    card.style.setProperty("--y", `${top - box.top}px`);
  };

  // On narrow screens the card lies at the bottom, over what is there.
  const uncover = () => {
    const hidden = current.getBoundingClientRect().bottom + 8 - card.getBoundingClientRect().top;
    if (getComputedStyle(card).position === "fixed" && hidden > 0) scrollBy(0, hidden);
  };

  const hide = () => {
    if (current) current.classList.remove("current");
    current = null;
    card.hidden = true;
    document.body.classList.remove("has-card");
  };

  const darken = () => {
    for (const element of document.querySelectorAll(".lit")) {
      element.className = element.className.replace(/ lit l\d+$/, "");
      element.removeAttribute("data-share");
    }
    if (lit) lit.setAttribute("aria-pressed", "false");
    lit = null;
    sources.hidden = true;
  };

  const light = (sentence) => {
    darken();
    lit = sentence;
    sentence.setAttribute("aria-pressed", "true");
    const found = data.sentences[Number(sentence.dataset.sentence)];
    const items = [];
    for (const [passage, share, step] of found) {
      const element = document.getElementById(`p${passage}`);
      const words = element.textContent;
      element.className += ` lit l${step}`;
      element.dataset.share = share;
      const holder = element.closest("details");
      holder.open = true;
      if (items.length === MOST) continue;
      const heading = element.classList.contains("name");
      const link = make("a", "", make("bdi", "", heading ? `${words} (heading)` : words));
      link.href = `#p${passage}`;
      link.addEventListener("click", (event) => {
        event.preventDefault();
        holder.open = true;
        element.scrollIntoView({ block: "center", behavior: calm.matches ? "auto" : "smooth" });
        element.focus({ preventScroll: true });
      });
      const origin = heading ? "" : holder.querySelector(".name").textContent;
      const text = make("span", "", link, make("bdi", "origin", origin));
      items.push(make("li", "", make("span", `figure l${step}`, share), text));
    }
    if (!items.length) items.push(make("li", "", "", make("span", "", "Hardly at any sentence of the documents.")));
    sources.querySelector("ol").replaceChildren(...items);
    sources.hidden = false;
    const best = found.length && document.getElementById(`p${found[0][0]}`);
    if (best && columns.matches) best.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  };

  const toggle = (sentence) => (sentence === lit ? darken() : light(sentence));
  const word = (sentence) => sentence.querySelector(".token");

  answer.addEventListener("pointerover", (event) => {
    const token = event.target.closest(".token");
    if (token && event.pointerType === "mouse") show(token);
  });
  answer.addEventListener("pointerleave", (event) => {
    const stays = card.contains(event.relatedTarget) || answer.querySelector(":focus-visible");
    if (event.pointerType === "mouse" && !stays) hide();
  });
  answer.addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    const sentence = event.target.closest(".sentence");
    const other = token && token !== current; // a finger goes from word to word by taps
    if (token) show(token);
    if (sentence && !(other && sentence === lit)) toggle(sentence);
    if (current) uncover();
  });
  answer.addEventListener("focusin", (event) => {
    const sentence = event.target.closest(".sentence");
    if (sentence && sentence.matches(":focus-visible") && !sentence.contains(current)) show(word(sentence));
  });
  answer.addEventListener("focusout", (event) => {
    if (!answer.contains(event.relatedTarget) && !card.contains(event.relatedTarget)) hide();
  });
  answer.addEventListener("keydown", (event) => {
    const sentence = event.target.closest(".sentence");
    if (!sentence || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      toggle(sentence);
    } else if (step) {
      const from = sentence.contains(current) ? tokens.indexOf(current) + step : tokens.indexOf(word(sentence));
      const token = tokens[Math.max(0, Math.min(tokens.length - 1, from))];
      token.closest(".sentence").focus();
      show(token);
      uncover();
    } else {
      return;
    }
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (current) hide();
    else darken();
  });
})();
