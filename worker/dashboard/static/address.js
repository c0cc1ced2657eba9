// Keeps a person's choices in the page's address, so that a reload, a link and the browser's Back
// button show the same list.

const chosen = new Map(); // the name in the address → its control

// Gives a control the value that the address holds under a name, if the control has such a value.
export function readAddress(name, control) {
    chosen.set(name, control);
    const first = control.value;
    const value = new URLSearchParams(location.search).get(name);
    if (value !== null) {
        control.value = value;
    }
    if (control.selectedIndex === -1) {
        control.value = first; // no such option
    }
    control.dataset.first = first;
}

export function writeAddress() {
    const query = new URLSearchParams(location.search);
    chosen.forEach(function (control, name) {
        query.delete(name);
        if (control.value.trim() !== control.dataset.first) {
            query.set(name, control.value.trim());
        }
    });
    const text = query.toString();
    history.replaceState(
        history.state,
        "",
        location.pathname + (text ? "?" + text : "") + location.hash
    );
}
