// Defines the measures of usage for the plot and the table: name, parts, and numbers in words.

import { count, duration } from "./words.js";

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
const cents = new Intl.NumberFormat("en", {
    style: "currency",
    currency: "USD",
    maximumSignificantDigits: 2,
});
const mostGroups = 6; // with more, the colours would be too similar

function short(value) {
    return compact.format(value);
}

export function usd(value) {
    return value === null ? "–" : (value >= 1 ? dollars : cents).format(value);
}

export function waitWords(ms) {
    return ms < 10000 ? (ms / 1000).toFixed(1) + " s" : duration(ms);
}

export function meanWait(row) {
    return row.accepted > 0 ? row.waited_ms / row.accepted : 0;
}

function counted(name) {
    return function (row) { return row[name]; };
}

// Each measure has a name, a function for its value in a row, functions that format the value, and
// perhaps the parts into which the plot divides it if usage is not grouped.
export const measures = {
    calls: {
        name: "Calls",
        value: counted("calls"),
        words: count,
        short: short,
        whole: true,
        parts: [
            { name: "accepted", className: "plot-accepted", value: counted("accepted") },
            { name: "refused (429)", className: "plot-refused", value: counted("refused") },
            { name: "failed", className: "plot-faults", value: counted("faults") },
            { name: "rejected", className: "plot-rejected", value: counted("rejected") },
        ],
    },
    refused: {
        name: "Refusals (429)",
        value: counted("refused"),
        words: count,
        short: short,
        whole: true,
    },
    faults: { name: "Failures", value: counted("faults"), words: count, short: short, whole: true },
    tokens: {
        name: "Tokens",
        words: count,
        short: short,
        whole: true,
        value: function (row) {
            return row.prompt_tokens + row.output_tokens;
        },
        parts: [
            {
                name: "prompt",
                className: "plot-1",
                value: function (row) {
                    return row.prompt_tokens - row.cached_tokens;
                },
            },
            { name: "prompt, cached", className: "plot-2", value: counted("cached_tokens") },
            { name: "answer", className: "plot-3", value: counted("output_tokens") },
        ],
    },
    emails: { name: "Emails", value: counted("emails"), words: count, short: short, whole: true },
    wait: {
        name: "Mean wait",
        value: meanWait,
        words: waitWords,
        short: waitWords,
        whole: false,
        mean: true,
    },
    deferrals: {
        name: "Deferrals",
        value: counted("deferrals"),
        words: count,
        short: short,
        whole: true,
    },
    cost: {
        name: "Cost",
        value: function (row) {
            return row.cost_usd || 0;
        },
        words: usd,
        short: function (value) {
            return value >= 1 ? "$" + short(value) : usd(value);
        },
        whole: false,
    },
};

// Returns the sum of rows, as one row.
export function sumOf(rows) {
    const sum = {
        calls: 0,
        accepted: 0,
        refused: 0,
        faults: 0,
        rejected: 0,
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        emails: 0,
        deferrals: 0,
        waited_ms: 0,
        cost_usd: 0,
    };
    rows.forEach(function (row) {
        Object.keys(sum).forEach(function (name) { sum[name] += row[name]; });
    });
    return sum;
}

export function groupName(row, by) {
    const name = by === "key" ? row.label || row.key || "no key" : row[by];
    return name || (by === "model" ? "no model" : "unknown");
}

function added(rows, steps, first_ms, step_ms, value) {
    const values = steps.map(function () { return 0; });
    rows.forEach(function (row) {
        const index = Math.round((row.at_ms - first_ms) / step_ms);
        if (index >= 0 && index < values.length) {
            values[index] += value(row);
        }
    });
    return values;
}

// Returns the series of a plot: the parts of a measure, or its largest groups and the sum of the
// other groups. usage: an answer of the endpoint; by: the kind of group, or empty.
export function seriesOf(usage, measure, by) {
    const steps = [];
    for (let at_ms = usage.first_ms; at_ms <= usage.now_ms; at_ms += usage.step_ms) {
        steps.push(at_ms);
    }
    const values = function (rows, value) {
        return added(rows, steps, usage.first_ms, usage.step_ms, value);
    };
    if (measure.mean) {
        const waited = values(usage.rows, counted("waited_ms"));
        const accepted = values(usage.rows, counted("accepted"));
        return {
            steps: steps,
            series: [
                {
                    name: measure.name,
                    className: "plot-1",
                    values: waited.map(function (ms, index) {
                        return accepted[index] > 0 ? ms / accepted[index] : 0;
                    }),
                },
            ],
        };
    }
    if (!by) {
        const parts = measure.parts || [
            { name: measure.name, className: "plot-1", value: measure.value },
        ];
        return { steps: steps, series: parts.map(function (part) {
            return {
                name: part.name,
                className: part.className,
                values: values(usage.rows, part.value),
            };
        }) };
    }
    const groups = new Map();
    usage.rows.forEach(function (row) {
        const name = groupName(row, by);
        if (!groups.has(name)) {
            groups.set(name, []);
        }
        groups.get(name).push(row);
    });
    const sum = function (rows) {
        return rows.reduce(function (all, row) {
            return all + measure.value(row);
        }, 0);
    };
    const names = Array.from(groups.keys()).filter(function (name) {
        return sum(groups.get(name)) > 0;
    });
    names.sort(function (left, right) { return sum(groups.get(right)) - sum(groups.get(left)); });
    const series = names.slice(0, mostGroups).map(function (name, index) {
        return {
            name: name,
            className: "plot-" + (index + 1),
            values: values(groups.get(name), measure.value),
        };
    });
    const rest = names.slice(mostGroups);
    if (rest.length) {
        series.push({
            name: count(rest.length) + " more",
            className: "plot-rest",
            values: values(
                rest.flatMap(function (name) {
                    return groups.get(name);
                }),
                measure.value
            ),
        });
    }
    return { steps: steps, series: series };
}
