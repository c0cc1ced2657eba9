// Shows the usage of a service over an hour, a day, a week or 90 days: a plot and a table of sums.

import { make, page, setText } from "./elements.js";
import { groupName, meanWait, measures, seriesOf, sumOf, usd, waitWords } from "./measures.js";
import { hasEnded } from "./live.js";
import { drawPlot, makePlot, showLegend } from "./plot.js";
import { opened } from "./server.js";
import { count, title } from "./words.js";

const ranges = { hour: "Hour", day: "Day", week: "Week", "90d": "90 days" };
const spans = {
    hour: "last hour",
    day: "last 24 hours",
    week: "last 7 days",
    "90d": "last 90 days",
};
const again_ms = { hour: 15000, day: 60000, week: 300000, "90d": 300000 };
const failed_ms = 15000;
const stored = "keywheel-usage-range";
const groups = {
    "": "in total",
    key: "by key",
    account: "by account",
    model: "by model",
    tenant: "by tenant",
};
const all = []; // the elements and data of each service
let range = "hour"; // one range for all services; the browser remembers it

try {
    const last = window.localStorage.getItem(stored);
    range = ranges[last] ? last : range;
} catch {
    // A browser that stores nothing starts with the hour.
}

function measuresOf(service) {
    const emails = page.dataset.sendsOnce.split(" ").includes(service);
    return [
        "calls",
        "refused",
        "faults",
        emails ? "emails" : "tokens",
        "wait",
        "deferrals",
        "cost",
    ];
}

function select(label, options, act) {
    const control = make("select", "form-select form-select-sm");
    control.setAttribute("aria-label", label);
    Object.keys(options).forEach(function (value) {
        control.append(new Option(options[value], value));
    });
    control.addEventListener("change", act);
    return control;
}

function rangeButtons(service) {
    const group = make("div", "btn-group");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Range of the usage of " + title(service));
    Object.keys(ranges).forEach(function (name) {
        const control = make("button", "btn btn-sm btn-outline-secondary", ranges[name]);
        control.type = "button";
        control.dataset.range = name;
        control.addEventListener("click", function () { setRange(name); });
        group.append(control);
    });
    return group;
}

function setRange(name) {
    range = name;
    try {
        window.localStorage.setItem(stored, name);
    } catch {
        // The browser stores nothing, so the choice holds until the page is closed.
    }
    all.forEach(load);
}

export function makeUsage(service) {
    const section = make("figure", "keys-usage");
    const head = make("figcaption", "usage-head");
    const words = make("span", "usage-words", "Usage: loading…");
    const names = {};
    measuresOf(service).forEach(function (name) {
        names[name] = measures[name].name;
    });
    const view = {
        service: service,
        section: section,
        words: words,
        timer: null,
        requests: 0,
        usage: null,
    };
    view.buttons = rangeButtons(service);
    view.show = select("What to show of " + title(service), names, function () {
        draw(view);
    });
    view.by = select("How to group the usage of " + title(service), groups, function () {
        load(view);
    });
    const tools = make("div", "keys-tools");
    tools.append(view.buttons, view.show, view.by);
    head.append(words, tools);
    view.plot = makePlot("Usage of " + title(service));
    view.legend = make("div", "usage-legend");
    view.details = make("details", "usage-details");
    view.summary = make("summary", "", "Sums by key");
    view.table = make("div", "broker-table-card keys-usage-table");
    view.table.tabIndex = 0;
    view.table.setAttribute("role", "region");
    view.table.setAttribute("aria-label", "Usage of " + title(service) + " as a table");
    view.note = make("p", "keys-note usage-note");
    view.links = ["csv", "json"].map(function (format) {
        const link = make("a", "", format.toUpperCase());
        link.download = "keywheel-usage-" + service + "." + format;
        const name = format.toUpperCase() + " of the usage of " + title(service);
        link.setAttribute("aria-label", name);
        return link;
    });
    const links = make("p", "usage-links", "Each step of this range: ");
    links.append(view.links[0], " · ", view.links[1]);
    view.details.append(view.summary, view.table, view.note, links);
    view.details.addEventListener("toggle", function () {
        if (view.details.open) {
            load(view);
        }
    });
    section.append(head, view.plot.box, view.legend, view.details);
    all.push(view);
    view.timer = setTimeout(function () {
        load(view);
    }, 0); // the status and the lists are requested first
    return section;
}

// The plot needs groups only if the person has chosen them. By default the table has one row a key.
function groupOf(view) {
    return view.by.value || (view.details.open ? "key" : "service");
}

function address(view, by, format) {
    const query = new URLSearchParams({
        service: view.service,
        range: range,
        by: by,
        format: format,
    });
    return page.dataset.usageUrl + "?" + query;
}

async function load(view) {
    clearTimeout(view.timer);
    const number = view.requests += 1;
    const by = groupOf(view);
    let next_ms = again_ms[range];
    view.buttons.childNodes.forEach(function (button) {
        button.setAttribute("aria-pressed", String(button.dataset.range === range));
        button.classList.toggle("active", button.dataset.range === range);
    });
    view.links.forEach(function (link) {
        link.href = address(view, view.by.value || "key", link.textContent.toLowerCase());
    });
    try {
        const usage = await (await opened(address(view, by, "json"))).json();
        if (number !== view.requests) {
            return; // there is a newer request
        }
        view.usage = usage;
        draw(view);
    } catch (error) {
        if (number !== view.requests || error.status === 401) {
            return; // there is a newer request, or live.js reports that the login has expired
        }
        setText(view.words, "Usage: " + error.message);
        next_ms = failed_ms;
    }
    view.timer = setTimeout(function () { refresh(view); }, next_ms);
}

// Loads the usage; in a background tab, only when a person looks at the tab again.
function refresh(view) {
    if (hasEnded()) {
        return; // the login has expired
    }
    if (document.hidden) {
        document.addEventListener(
            "visibilitychange",
            function () {
                refresh(view);
            },
            { once: true }
        );
    } else {
        load(view);
    }
}

function draw(view) {
    const usage = view.usage;
    if (!usage) {
        return;
    }
    const measure = measures[view.show.value];
    const by = view.by.value;
    const drawn = seriesOf(usage, measure, by);
    const sums = sumOf(usage.totals);
    const sum =
        view.show.value === "cost" && !usage.priced
            ? "no prices"
            : measure.words(measure.value(sums));
    const summary =
        measure.name
        + ", "
        + spans[usage.range]
        + ": "
        + sum
        + (view.show.value === "calls" && sums.refused
            ? ", " + count(sums.refused) + " refused"
            : "");
    setText(view.words, summary);
    showLegend(view.legend, drawn.series);
    drawPlot(view.plot, {
        steps: drawn.steps,
        step_ms: usage.step_ms,
        series: drawn.series,
        words: measure.words,
        short: measure.short,
        whole: measure.whole,
        summary: summary,
    });
    showTable(view, usage);
}

const columns = {
    Calls: function (row) { return count(row.calls); },
    Accepted: function (row) { return count(row.accepted); },
    Refused: function (row) { return count(row.refused); },
    Failed: function (row) { return count(row.faults); },
    Rejected: function (row) { return count(row.rejected); },
    Prompt: function (row) { return count(row.prompt_tokens); },
    Cached: function (row) { return count(row.cached_tokens); },
    Answer: function (row) { return count(row.output_tokens); },
    Emails: function (row) { return count(row.emails); },
    "Mean wait": function (row) { return row.accepted > 0 ? waitWords(meanWait(row)) : "–"; },
    Cost: function (row) { return usd(row.cost_usd); },
};

function showTable(view, usage) {
    const by = view.by.value || "key";
    setText(view.summary, "Sums by " + by);
    if (!view.details.open || !usage.by.includes(by)) {
        return; // the rows are loaded when a person opens the table
    }
    const left = measuresOf(view.service).includes("emails")
        ? ["Prompt", "Cached", "Answer"]
        : ["Emails"];
    const names = Object.keys(columns).filter(function (name) {
        return !left.includes(name) && (name !== "Cost" || usage.priced);
    });
    const head = make("tr");
    [by.charAt(0).toUpperCase() + by.slice(1)].concat(names).forEach(function (name) {
        const cell = make("th", "", name);
        cell.scope = "col";
        head.append(cell);
    });
    const line = function (text, row) {
        const tableRow = make("tr");
        const name = make("th", "", text);
        name.scope = "row";
        tableRow.append(name);
        names.forEach(function (column) { tableRow.append(make("td", "", columns[column](row))); });
        return tableRow;
    };
    const rows = usage.totals.filter(function (row) { return row.calls > 0; });
    const parts = [make("thead"), make("tbody"), make("tfoot")];
    parts[0].append(head);
    rows.forEach(function (row) { parts[1].append(line(groupName(row, by), row)); });
    if (rows.length > 1 && by !== "tenant") {
        // no sum by tenant: a call with emails of several tenants counts for each tenant
        parts[2].append(line("All", sumOf(usage.totals)));
    }
    const table = make("table", "table align-middle mb-0");
    table.append.apply(table, parts);
    view.table.replaceChildren(table);
    setText(view.note, noteOf(usage, by));
    view.note.hidden = !view.note.textContent;
}

function noteOf(usage, by) {
    const notes = [];
    if (!sumOf(usage.totals).calls) {
        notes.push(
            by === "tenant" ? "No job had a tenant in this time." : "No call was made in this time."
        );
    }
    if (usage.problem) {
        notes.push("The cost is not known. " + usage.problem);
    } else if (!usage.priced) {
        notes.push("To see the cost, put prices into keywheel-prices.toml beside .env.");
    } else if (usage.unpriced.length) {
        notes.push("Without a price: " + usage.unpriced.join(", ") + ".");
    }
    return notes.join(" ");
}
