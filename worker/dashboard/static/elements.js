// Elements of the page; what comes from the server becomes text, never markup.

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

export function button(text, label, className, act) {
    const found = make("button", "btn btn-sm " + className, text);
    found.type = "button";
    found.setAttribute("aria-label", label);
    found.addEventListener("click", act);
    return found;
}
