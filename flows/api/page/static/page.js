// Everything works without this: it adds the drop zone, and says what htmx would leave unsaid.
(() => {
  "use strict";
  const notice = document.getElementById("notice");
  const say = (text) => {
    const line = document.createElement("p");
    line.className = "notice bad";
    line.textContent = text;
    notice.replaceChildren(line);
    notice.scrollIntoView({ block: "nearest" });
  };

  const upload = document.getElementById("upload");
  if (upload) {
    const zone = document.getElementById("drop");
    const file = document.getElementById("file");
    const most = Number(upload.dataset.most);
    const over = (event) => {
      event.preventDefault();
      zone.classList.toggle("over", event.type === "dragover");
    };
    for (const kind of ["dragover", "dragleave", "drop"]) zone.addEventListener(kind, over);
    zone.addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length) {
        file.files = event.dataTransfer.files;
        file.dispatchEvent(new Event("change", { bubbles: true }));
      }
    });
    // A drop beside the zone would open the file instead of the page.
    for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());

    upload.addEventListener("htmx:confirm", (event) => {
      const chosen = file.files[0];
      if (!chosen && !upload.querySelector("[name=kept]")) {
        event.preventDefault();
        if (event.detail.triggeringEvent && event.detail.triggeringEvent.type === "submit") say("Choose a file first.");
      } else if (chosen && chosen.size > most) {
        event.preventDefault();
        say(`The file is too large: at most ${Math.floor(most / 1048576)} MB. Split it into files of at most 500 mailboxes.`);
      } else {
        notice.replaceChildren();
      }
    });
    upload.addEventListener("htmx:afterSwap", (event) => {
      const about = event.detail.requestConfig.triggeringEvent;
      const result = document.getElementById("result");
      // Choosing an option keeps the focus where it is.
      if (result && about && (about.target === file || about.type === "submit")) result.focus();
    });
  }

  // A second click would only wait for the same answer.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    for (const button of document.querySelectorAll("button")) {
      if (button.form === event.target) button.disabled = true;
    }
  });
  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("button:disabled")) button.disabled = false;
  });

  document.addEventListener("htmx:sendError", () => say("The server does not answer. Check that it still runs, then load the page again."));
})();
