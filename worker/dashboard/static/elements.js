// Makes elements of the page. They show what the server sends as text, never as markup.

export const page = document.getElementById("keys-page");
export const readOnly = page.dataset.readOnly === "yes";
export const narrow = window.matchMedia("(max-width: 40rem)");

export function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) {
        element.className = className;
    }
    if (text !== undefined) {
        element.textContent = text;
    }
    return element;
}

export function setText(element, text) {
    if (element.textContent !== text) {
        element.textContent = text;
    }
}

// Makes a link to the page of a job, with the beginning of the job's id as its text.
export function taskLink(id) {
    const link = make("a", "", "job " + id.slice(0, 8) + (id.length > 8 ? "…" : ""));
    link.href = page.dataset.taskUrl.replace("TASK", encodeURIComponent(id));
    link.title = id;
    return link;
}

export function button(text, label, className, act) {
    const control = make("button", "btn btn-sm " + className, text);
    control.type = "button";
    control.setAttribute("aria-label", label);
    control.addEventListener("click", act);
    return control;
}
