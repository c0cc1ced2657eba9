// Changes the page without taking the focus, or a click, from the person who uses it.

const controls = "a[href], button:not([disabled]), input:not([disabled]), summary";
const entriesOf = new WeakMap(); // list → its elements by their entries

function isShown(element) {
    return element.isConnected && element.getClientRects().length > 0;
}

// Moves the focus to the heading of what an element belongs to.
function focusHeading(element) {
    const heading = element.closest("section, article, #keys-page").querySelector("h1, h2, h3");
    heading.tabIndex = -1;
    heading.focus();
}

// Hides or shows an element; where it had the focus, that goes to another one, or to the heading.
export function setHidden(element, isHidden, instead) {
    const hadFocus = !element.hidden && isHidden && element.contains(document.activeElement);
    element.hidden = isHidden;
    if (hadFocus && instead && isShown(instead)) {
        instead.focus();
    } else if (hadFocus) {
        focusHeading(element);
    }
}

// Shows some of several buttons that take each other's place. each: pairs of a button and whether
// it is shown; one that goes gives its focus to one that stays.
export function showSome(each) {
    const stays = each.find(function (pair) { return pair[1]; });
    if (stays) {
        stays[0].hidden = false; // first, so that it can get the focus
    }
    each.forEach(function (pair) { setHidden(pair[0], !pair[1], stays && stays[0]); });
}

// Disables or enables a button; one that loses its use gives its focus to the heading.
export function setDisabled(found, isDisabled) {
    if (isDisabled && !found.disabled && found === document.activeElement) {
        focusHeading(found);
    }
    found.disabled = isDisabled;
}

// Puts elements into a list, in order. Those that are in it already stay where they can, and the
// focus stays in them; if the focused one is gone, the one in its place gets the focus.
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

// Shows the entries of a list. An entry that is in it already keeps its element until the day
// changes, since a time of another day is shown with its date. makeEntry: returns the element of an
// entry.
export function showEntries(list, entries, makeEntry) {
    const before = entriesOf.get(list) || new Map();
    const now = new Map();
    const today = new Date().toDateString();
    entries.forEach(function (entry) {
        let text = today + JSON.stringify(entry);
        while (now.has(text)) {
            text += "+"; // the same again
        }
        now.set(text, before.get(text) || makeEntry(entry));
    });
    entriesOf.set(list, now);
    setChildren(list, Array.from(now.values()));
}

// Does something that a button started. Meanwhile the button says so, and another press of it does
// nothing; it keeps the focus, which a disabled button would lose.
export async function whileBusy(found, text, work) {
    if (found.getAttribute("aria-disabled") === "true") {
        return;
    }
    const before = found.textContent;
    found.setAttribute("aria-disabled", "true");
    found.textContent = text;
    try {
        await work();
    } finally {
        found.textContent = before;
        found.removeAttribute("aria-disabled");
    }
}
