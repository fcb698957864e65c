(function () {
  "use strict";
  var root = document.documentElement;
  var themes = JSON.parse(document.getElementById("trtbench-themes").textContent);
  var config = JSON.parse(document.getElementById("trtbench-plot-config").textContent);
  var system = window.matchMedia("(prefers-color-scheme: dark)");
  if (window.innerWidth < 700) { config.displayModeBar = false; }  // it would lie over the title
  var hosts = Array.prototype.slice.call(document.querySelectorAll("figure[data-figure]"));

  function current() {
    return root.dataset.theme || (system.matches ? "dark" : "light");
  }

  function draw(theme) {
    hosts.forEach(function (host) {
      var canvas = host.querySelector(".canvas");
      var figure = JSON.parse(document.getElementById(host.dataset.figure).textContent);
      figure.layout.template = themes[theme];
      canvas.style.height = figure.layout.height + "px";
      if (!canvas.dataset.drawn) {
        canvas.textContent = "";
        canvas.dataset.drawn = "yes";
      }
      window.Plotly.react(canvas, figure.data, figure.layout, config);
    });
  }

  function label(button) {
    button.textContent = current() === "dark" ? "Light" : "Dark";
  }

  draw(current());
  var button = document.querySelector(".switch");
  button.hidden = false;
  label(button);
  button.addEventListener("click", function () {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    label(button);
    draw(current());
  });
  system.addEventListener("change", function () {
    label(button);
    draw(current());
  });
  // Paper is white, whatever the screen was.
  window.addEventListener("beforeprint", function () { draw("light"); });
  window.addEventListener("afterprint", function () { draw(current()); });

  var links = {};
  document.querySelectorAll("nav.toc a").forEach(function (a) { links[a.hash.slice(1)] = a; });
  if ("IntersectionObserver" in window) {
    var seen = {};
    var observer = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) { seen[entry.target.id] = entry.isIntersecting; });
      var first = Object.keys(links).find(function (id) { return seen[id]; });
      Object.keys(links).forEach(function (id) { links[id].classList.toggle("here", id === first); });
    }, { rootMargin: "0px 0px -55% 0px" });
    document.querySelectorAll("main section[id]").forEach(function (section) { observer.observe(section); });
  }
})();
