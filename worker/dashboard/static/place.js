// Shows the part of the page that its address names, or where a person was before a reload or the
// way back. The browser looks for that place before the page has its content.

const touches = ["wheel", "touchmove", "keydown", "pointerdown"];
const before = history.state && history.state.scroll_px;
let isPlaced = false;

function leave() {
    isPlaced = true; // the person goes on alone
}

touches.forEach(function (name) { window.addEventListener(name, leave, { once: true }); });

window.addEventListener("pagehide", function () {
    history.replaceState(Object.assign({}, history.state, { scroll_px: window.scrollY }), "");
});

// To be called when the page has its content; only the first call does something.
export function goToPlace() {
    if (isPlaced) {
        return;
    }
    isPlaced = true;
    if (typeof before === "number") {
        window.scrollTo(0, before);
    } else if (location.hash) {
        location.replace(location.hash);
    }
}
