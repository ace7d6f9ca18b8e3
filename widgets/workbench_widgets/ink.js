// Figures follow the page's theme: their text takes the ink of light or dark pages instead of the grey that stands
// for both and is pale on either. Looks again now and then, for figures that come later and for a theme that changes.
(() => {
  if (window.workbenchInk) return
  window.workbenchInk = true
  const ink = INK, known = new Set(Object.values(ink))
  const names = ["text_color", "axis_label_text_color", "major_label_text_color", "label_text_color",
    "title_text_color", "axis_line_color", "major_tick_line_color"]
  const done = new WeakMap()
  const look = () => {
    const theme = document.body.dataset.jpThemeLight === "false" ? "dark" : "light"
    document.documentElement.style.setProperty("--wb-ink", ink[theme])
    for (const figures of window.Bokeh?.documents ?? []) {
      const models = figures._all_models, state = theme + models.size
      if (done.get(figures) === state) continue
      done.set(figures, state)
      for (const model of models.values())
        for (const name of names) {
          const now = name in model.properties ? model[name] : null
          if (known.has(now)) model[name] = ink[theme]
          else if (known.has(now?.value)) model[name] = {value: ink[theme]}  // of words that are drawn as points are
        }
    }
  }
  setInterval(look, 400)
})()
