// The monitor of builds: the view of them, over the model's traits.

function render({ model, el }) {
  const root = page("tb-builds", "Builds");
  const notice = h("div", { className: "tb-notice", role: "alert" });
  el.append(root);
  const say = voice(root);
  const view = buildView(say, (job) => model.send({ kind: "cancel", job }));
  root.prepend(notice, view.element);
  const show = () => view.show(model.get("builds"), model.get("log"));
  const showNotice = () => { notice.textContent = model.get("notice"); notice.hidden = !model.get("notice"); };
  const undo = followTheme(model, root, () => {});
  const listeners = { "change:builds": show, "change:log": show, "change:notice": showNotice };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  show();
  showNotice();
  return () => {
    undo();
    view.stop();
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
  };
}

export default { render };
