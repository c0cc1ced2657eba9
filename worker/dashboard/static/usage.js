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
    const found = make("select", "form-select form-select-sm");
    found.setAttribute("aria-label", label);
    Object.keys(options).forEach(function (value) {
        found.append(new Option(options[value], value));
    });
    found.addEventListener("change", act);
    return found;
}

function rangeButtons(service) {
    const group = make("div", "btn-group");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Range of the usage of " + title(service));
    Object.keys(ranges).forEach(function (name) {
        const found = make("button", "btn btn-sm btn-outline-secondary", ranges[name]);
        found.type = "button";
        found.dataset.range = name;
        found.addEventListener("click", function () { setRange(name); });
        group.append(found);
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
    const its = {
        service: service,
        section: section,
        words: words,
        timer: null,
        requests: 0,
        usage: null,
    };
    its.buttons = rangeButtons(service);
    its.show = select("What to show of " + title(service), names, function () {
        draw(its);
    });
    its.by = select("How to group the usage of " + title(service), groups, function () {
        load(its);
    });
    const tools = make("div", "keys-tools");
    tools.append(its.buttons, its.show, its.by);
    head.append(words, tools);
    its.plot = makePlot("Usage of " + title(service));
    its.legend = make("div", "usage-legend");
    its.details = make("details", "usage-details");
    its.summary = make("summary", "", "Sums by key");
    its.table = make("div", "broker-table-card keys-usage-table");
    its.table.tabIndex = 0;
    its.table.setAttribute("role", "region");
    its.table.setAttribute("aria-label", "Usage of " + title(service) + " as a table");
    its.note = make("p", "keys-note usage-note");
    its.links = ["csv", "json"].map(function (format) {
        const link = make("a", "", format.toUpperCase());
        link.download = "keywheel-usage-" + service + "." + format;
        const name = format.toUpperCase() + " of the usage of " + title(service);
        link.setAttribute("aria-label", name);
        return link;
    });
    const links = make("p", "usage-links", "Each step of this range: ");
    links.append(its.links[0], " · ", its.links[1]);
    its.details.append(its.summary, its.table, its.note, links);
    its.details.addEventListener("toggle", function () {
        if (its.details.open) {
            load(its);
        }
    });
    section.append(head, its.plot.box, its.legend, its.details);
    all.push(its);
    its.timer = setTimeout(function () {
        load(its);
    }, 0); // the status and the lists are requested first
    return section;
}

// The plot needs groups only if the person has chosen them. By default the table has one row a key.
function groupOf(its) {
    return its.by.value || (its.details.open ? "key" : "service");
}

function address(its, by, format) {
    const query = new URLSearchParams({
        service: its.service,
        range: range,
        by: by,
        format: format,
    });
    return page.dataset.usageUrl + "?" + query;
}

async function load(its) {
    clearTimeout(its.timer);
    const number = its.requests += 1;
    const by = groupOf(its);
    let next_ms = again_ms[range];
    its.buttons.childNodes.forEach(function (button) {
        button.setAttribute("aria-pressed", String(button.dataset.range === range));
        button.classList.toggle("active", button.dataset.range === range);
    });
    its.links.forEach(function (link) {
        link.href = address(its, its.by.value || "key", link.textContent.toLowerCase());
    });
    try {
        const usage = await (await opened(address(its, by, "json"))).json();
        if (number !== its.requests) {
            return; // there is a newer request
        }
        its.usage = usage;
        draw(its);
    } catch (error) {
        if (number !== its.requests || error.status === 401) {
            return; // there is a newer request, or live.js reports that the login has expired
        }
        setText(its.words, "Usage: " + error.message);
        next_ms = failed_ms;
    }
    its.timer = setTimeout(function () { refresh(its); }, next_ms);
}

// Loads the usage; in a background tab, only when a person looks at the tab again.
function refresh(its) {
    if (hasEnded()) {
        return; // the login has expired
    }
    if (document.hidden) {
        document.addEventListener(
            "visibilitychange",
            function () {
                refresh(its);
            },
            { once: true }
        );
    } else {
        load(its);
    }
}

function draw(its) {
    const usage = its.usage;
    if (!usage) {
        return;
    }
    const measure = measures[its.show.value];
    const by = its.by.value;
    const drawn = seriesOf(usage, measure, by);
    const sums = sumOf(usage.totals);
    const sum =
        its.show.value === "cost" && !usage.priced
            ? "no prices"
            : measure.words(measure.value(sums));
    const summary =
        measure.name
        + ", "
        + spans[usage.range]
        + ": "
        + sum
        + (its.show.value === "calls" && sums.refused
            ? ", " + count(sums.refused) + " refused"
            : "");
    setText(its.words, summary);
    showLegend(its.legend, drawn.series);
    drawPlot(its.plot, {
        steps: drawn.steps,
        step_ms: usage.step_ms,
        series: drawn.series,
        words: measure.words,
        short: measure.short,
        whole: measure.whole,
        summary: summary,
    });
    showTable(its, usage);
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

function showTable(its, usage) {
    const by = its.by.value || "key";
    setText(its.summary, "Sums by " + by);
    if (!its.details.open || !usage.by.includes(by)) {
        return; // the rows are loaded when a person opens the table
    }
    const left = measuresOf(its.service).includes("emails")
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
        const found = make("tr");
        const name = make("th", "", text);
        name.scope = "row";
        found.append(name);
        names.forEach(function (column) { found.append(make("td", "", columns[column](row))); });
        return found;
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
    its.table.replaceChildren(table);
    setText(its.note, noteOf(usage, by));
    its.note.hidden = !its.note.textContent;
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
