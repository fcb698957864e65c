// A walk through a view by Tab: what Tab has to reach, and what each stop is.
({
  // What the browser counts as one stop: a group of radio buttons once, hidden ones not.
  controls(root) {
    const all = [...root.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
    const passedOver = (one) => one.type === "radio" && !one.checked && root.querySelector(`input[name="${one.name}"]:checked`);
    return all.filter((one) => one.tabIndex >= 0 && !one.disabled && one.dataset.probe === undefined
      && one.checkVisibility({ visibilityProperty: true }) && !passedOver(one));
  },

  begin(selector) {
    const root = document.querySelector(selector), probe = document.createElement("span");
    probe.tabIndex = 0;
    probe.dataset.probe = "";
    root.prepend(probe);
    probe.focus();
    return this.controls(root).length;
  },

  // `at` is the place among the controls, -1 for a region that only scrolls; null once the focus has left the view.
  stop(selector) {
    const root = document.querySelector(selector), one = document.activeElement;
    root.querySelector("[data-probe]")?.remove();
    if (!root.contains(one) || one === root) return null;
    const style = getComputedStyle(one), box = one.getBoundingClientRect();
    const name = one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent || one.title || "";
    return {
      at: this.controls(root).indexOf(one), tag: one.tagName.toLowerCase(), role: one.getAttribute("role") || "",
      name: name.trim().slice(0, 60), ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
      shown: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
    };
  },
})
