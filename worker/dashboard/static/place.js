// Scrolls to the part of the page that its address names, or, after a reload or the browser's Back
// button, to the place that the person saw. The browser itself would scroll before the page has its
// content.

const touches = ["wheel", "touchmove", "keydown", "pointerdown"];
const before = history.state && history.state.scroll_px;
let isPlaced = false;

function leave() {
    isPlaced = true; // the person already uses the page
}

touches.forEach(function (name) { window.addEventListener(name, leave, { once: true }); });

window.addEventListener("pagehide", function () {
    history.replaceState(Object.assign({}, history.state, { scroll_px: window.scrollY }), "");
});

// Call this when the page has its content; only the first call has an effect.
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
