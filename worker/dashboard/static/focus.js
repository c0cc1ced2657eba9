// Changes the page so that the person keeps the keyboard focus, and no button moves below a click.

const controls = "a[href], button:not([disabled]), input:not([disabled]), summary";
const entriesOf = new WeakMap(); // list → its elements by their entries

function isShown(element) {
    return element.isConnected && element.getClientRects().length > 0;
}

// Moves the focus to the heading of the section that an element belongs to.
function focusHeading(element) {
    const heading = element.closest("section, article, #keys-page").querySelector("h1, h2, h3");
    heading.tabIndex = -1;
    heading.focus();
}

// Hides or shows an element. If a hidden element had the focus, the focus goes to another element
// (instead), or to the heading.
export function setHidden(element, isHidden, instead) {
    const hadFocus = !element.hidden && isHidden && element.contains(document.activeElement);
    element.hidden = isHidden;
    if (hadFocus && instead && isShown(instead)) {
        instead.focus();
    } else if (hadFocus) {
        focusHeading(element);
    }
}

// Shows some of several buttons that replace each other. each: pairs of a button and whether it is
// shown. If a hidden button had the focus, the focus goes to a button that is shown.
export function showSome(each) {
    const stays = each.find(function (pair) { return pair[1]; });
    if (stays) {
        stays[0].hidden = false; // first, so that it can get the focus
    }
    each.forEach(function (pair) { setHidden(pair[0], !pair[1], stays && stays[0]); });
}

// Disables or enables a button. If the button had the focus and is disabled, the focus goes to the
// heading.
export function setDisabled(control, isDisabled) {
    if (isDisabled && !control.disabled && control === document.activeElement) {
        focusHeading(control);
    }
    control.disabled = isDisabled;
}

// Puts elements into a list, in order. Elements that are in the list already move only if they
// must, and keep the focus. If the focused element is removed, the one in its place gets the focus.
export function setChildren(list, elements) {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const row = focused && Array.from(list.children).find(function (child) {
        return child.contains(focused);
    });
    const index = row ? Array.from(list.children).indexOf(row) : 0;
    const column = row ? Array.from(row.querySelectorAll(controls)).indexOf(focused) : 0;
    const wanted = new Set(elements);
    Array.from(list.children).forEach(function (child) {
        if (!wanted.has(child)) {
            child.remove();
        }
    });
    elements.forEach(function (element, number) {
        if (list.children[number] !== element) {
            list.insertBefore(element, list.children[number] || null);
        }
    });
    if (!focused || focused === document.activeElement) {
        return;
    }
    if (focused.isConnected) { // it was moved
        focused.focus({ preventScroll: true });
        return;
    }
    const next = elements[Math.min(index, elements.length - 1)];
    const found = next ? Array.from(next.querySelectorAll(controls)) : [];
    if (found.length && isShown(list)) {
        (found[column] || found[0]).focus();
    } else {
        focusHeading(list);
    }
}

// Shows the entries of a list. An entry that is in the list already keeps its element until the day
// changes, because a time of another day is shown with its date. makeEntry: returns the element of
// an entry.
export function showEntries(list, entries, makeEntry) {
    const before = entriesOf.get(list) || new Map();
    const now = new Map();
    const today = new Date().toDateString();
    entries.forEach(function (entry) {
        let text = today + JSON.stringify(entry);
        while (now.has(text)) {
            text += "+"; // an equal entry
        }
        now.set(text, before.get(text) || makeEntry(entry));
    });
    entriesOf.set(list, now);
    setChildren(list, Array.from(now.values()));
}

// Runs the work that a button started. Meanwhile the button shows the text, and another press of it
// does nothing. The button is not disabled, because it would lose the focus.
export async function whileBusy(control, text, work) {
    if (control.getAttribute("aria-disabled") === "true") {
        return;
    }
    const before = control.textContent;
    control.setAttribute("aria-disabled", "true");
    control.textContent = text;
    try {
        await work();
    } finally {
        control.textContent = before;
        control.removeAttribute("aria-disabled");
    }
}
