// Small grey images to choose one from. `pixels` holds all of them, one byte a pixel, as base64.

export function render({model, el}) {
  const box = document.createElement("div")
  box.className = "gallery"
  box.setAttribute("role", "group")

  const draw = () => {
    box.setAttribute("aria-label", model.legend)
    const bytes = Uint8Array.from(atob(model.pixels), (letter) => letter.charCodeAt(0))
    const count = model.size ** 2
    box.replaceChildren(...model.labels.map((label, index) => {
      const canvas = document.createElement("canvas")
      canvas.width = canvas.height = model.size
      const context = canvas.getContext("2d")
      const picture = context.createImageData(model.size, model.size)
      for (let pixel = 0; pixel < count; pixel++) {
        picture.data.fill(bytes[index * count + pixel], 4 * pixel, 4 * pixel + 3)
        picture.data[4 * pixel + 3] = 255
      }
      context.putImageData(picture, 0, 0)
      const button = document.createElement("button")
      button.type = "button"
      button.title = label
      button.setAttribute("aria-label", label)
      button.append(canvas)
      button.addEventListener("click", () => model.send_msg({index}))
      return button
    }))
    mark()
  }
  const mark = () => [...box.children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(index === model.chosen))
  })

  draw()
  model.on("pixels", draw)
  model.on("chosen", mark)
  el.append(box)
}
