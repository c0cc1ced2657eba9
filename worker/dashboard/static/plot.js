// Draws a plot of stacked bars over time, and shows the numbers of one step, which the pointer or
// the arrow keys choose.

import { make } from "./elements.js";
import { hourAndMinute } from "./words.js";

const svg = "http://www.w3.org/2000/svg";
const plotHeight = 132;
const edge = { left: 44, right: 8, top: 8, bottom: 20 };
const textWidth = 54; // the width of the longest time, such as 12:50 PM
const minute_ms = 60000;
const day_ms = 86400000;
const intervals_ms = [10, 30, 60, 180, 360, 720]
    .map(function (minutes) {
        return minutes * minute_ms;
    })
    .concat(
        [1, 2, 7, 14, 28].map(function (days) {
            return days * day_ms;
        })
    );
const dayAndMonth = { day: "numeric", month: "short" };

function shape(name, className, attributes) {
    const element = document.createElementNS(svg, name);
    element.setAttribute("class", className);
    Object.keys(attributes).forEach(function (key) {
        element.setAttribute(key, String(attributes[key]));
    });
    return element;
}

// Returns the distance between the lines of an axis: three to five lines, at round numbers.
function tickOf(highest, whole) {
    const rough = highest / 4;
    const ten = Math.pow(10, Math.floor(Math.log10(rough)));
    const ticks = [1, 2, 5, 10].map(function (times) { return times * ten; });
    const tick = ticks.find(function (value) { return value >= rough * 0.999; });
    return whole ? Math.max(1, tick) : tick;
}

// Steps of a day are UTC days. Shorter steps are shown in the reader's own time zone.
function dayWords(at_ms, step_ms) {
    return new Date(at_ms).toLocaleDateString([], Object.assign({}, dayAndMonth,
        step_ms >= day_ms ? { timeZone: "UTC" } : {}));
}

function timeWords(at_ms) {
    return new Date(at_ms).toLocaleTimeString([], hourAndMinute);
}

function spanWords(at_ms, step_ms) {
    if (step_ms >= day_ms) {
        return dayWords(at_ms, step_ms) + " (UTC)";
    }
    const today = new Date().toDateString() === new Date(at_ms).toDateString();
    return (today ? "" : dayWords(at_ms, step_ms) + ", ") + timeWords(at_ms)
        + (step_ms > minute_ms ? " to " + timeWords(at_ms + step_ms) : "");
}

function isTick(at_ms, step_ms, interval_ms) {
    const zone_ms = step_ms >= day_ms ? 0 : new Date(at_ms).getTimezoneOffset() * minute_ms;
    return (at_ms - zone_ms) % interval_ms < step_ms;
}

// name: the name of the plot, for screen readers. The numbers are shown for one step at a time.
export function makePlot(name) {
    const box = make("div", "plot-box");
    box.tabIndex = 0;
    box.setAttribute("role", "slider");
    box.setAttribute("aria-label", name + ", step by step");
    const drawing = document.createElementNS(svg, "svg");
    drawing.setAttribute("aria-hidden", "true");
    const hint = make("div", "plot-hint");
    hint.hidden = true;
    box.append(drawing, hint);
    const plot = { box: box, drawing: drawing, hint: hint, data: null, index: null };
    box.addEventListener("pointermove", function (event) { pointAt(plot, event); });
    box.addEventListener("pointerdown", function (event) { pointAt(plot, event); });
    box.addEventListener("pointerleave", function () { choose(plot, null); });
    box.addEventListener("blur", function () { choose(plot, null); });
    box.addEventListener("focus", function () {
        if (plot.data && plot.index === null && box.matches(":focus-visible")) {
            choose(plot, plot.data.steps.length - 1);
        }
    });
    box.addEventListener("keydown", function (event) { move(plot, event); });
    new ResizeObserver(function () {
        if (plot.data && box.clientWidth !== plot.width) {
            drawPlot(plot, plot.data);
        }
    }).observe(box);
    return plot;
}

function pointAt(plot, event) {
    if (plot.data) {
        const x = event.clientX - plot.box.getBoundingClientRect().left - edge.left;
        const index = Math.floor(x / plot.stepWidth);
        choose(plot, index < 0 || index >= plot.data.steps.length ? null : index);
    }
}

function move(plot, event) {
    const last = plot.data ? plot.data.steps.length - 1 : -1;
    const now = plot.index === null ? last : plot.index;
    const to = {
        ArrowLeft: now - 1,
        ArrowDown: now - 1,
        ArrowRight: now + 1,
        ArrowUp: now + 1,
        PageDown: now - 10,
        PageUp: now + 10,
        Home: 0,
        End: last,
        Escape: null,
    }[event.key];
    if (to !== undefined && last >= 0) {
        event.preventDefault();
        choose(plot, to === null ? null : Math.min(last, Math.max(0, to)));
    }
}

function choose(plot, index) {
    plot.index = index;
    plot.hint.hidden = index === null;
    if (plot.cursor) {
        plot.cursor.setAttribute("visibility", index === null ? "hidden" : "visible");
    }
    if (index === null || !plot.data) {
        return;
    }
    const data = plot.data;
    const parts = data.series.filter(function (series) {
        return series.values[index] || data.series.length <= 4;
    });
    const lines = parts.map(function (series) {
        const line = make("div", "plot-line");
        line.append(
            make("span", "plot-key " + series.className),
            series.name + ": " + data.words(series.values[index])
        );
        return line;
    });
    const when = spanWords(data.steps[index], data.step_ms);
    plot.hint.replaceChildren.apply(plot.hint, [make("strong", "", when)].concat(
        lines.length ? lines : [make("div", "", "nothing")]));
    const x = edge.left + (index + 0.5) * plot.stepWidth;
    plot.cursor.setAttribute("x", String(edge.left + index * plot.stepWidth));
    const isRight = x > plot.width / 2;
    plot.hint.style.left = isRight ? "auto" : x + 12 + "px";
    plot.hint.style.right = isRight ? plot.width - x + 12 + "px" : "auto";
    plot.box.setAttribute("aria-valuenow", String(index));
    plot.box.setAttribute("aria-valuetext", when + ": " + (parts.map(function (series) {
        return series.name + " " + data.words(series.values[index]);
    }).join(", ") || "nothing"));
}

// data: steps (when each step began), step_ms, series (each with name, className, values), words
// (formats a value), short (formats a value for the axis), whole (whether values are whole
// numbers), summary (the text for screen readers while no step is chosen)
export function drawPlot(plot, data) {
    if (plot.index !== null && plot.data && plot.data.step_ms !== data.step_ms) {
        plot.index = data.steps.length - 1; // the new range has other steps
    }
    plot.data = data;
    plot.width = plot.box.clientWidth;
    const inner = Math.max(1, plot.width - edge.left - edge.right);
    plot.stepWidth = inner / data.steps.length;
    const height = plotHeight - edge.top - edge.bottom;
    const sums = data.steps.map(function (_, index) {
        return data.series.reduce(function (sum, series) { return sum + series.values[index]; }, 0);
    });
    const highest = Math.max.apply(null, sums);
    const tick = tickOf(highest > 0 ? highest : 4, data.whole);
    const top = highest > 0 ? Math.ceil(highest / tick) * tick : 4;
    const y = function (value) { return edge.top + height - value / top * height; };
    const shapes = [];
    for (let value = 0; value <= top * 1.001; value += tick) {
        shapes.push(
            shape("line", "plot-grid", {
                x1: edge.left,
                x2: edge.left + inner,
                y1: y(value),
                y2: y(value),
            })
        );
        const text = shape("text", "plot-text plot-value", { x: edge.left - 6, y: y(value) + 4 });
        text.textContent = data.short(value);
        shapes.push(text);
    }
    plot.cursor = shape("rect", "plot-cursor", {
        x: 0,
        y: edge.top,
        width: plot.stepWidth,
        height: height,
        visibility: "hidden",
    });
    shapes.push(plot.cursor);
    const gap = plot.stepWidth > 4 ? 1 : 0;
    data.steps.forEach(function (_, index) {
        let below = 0;
        data.series.forEach(function (series) {
            const value = series.values[index];
            if (value > 0) {
                const bar = Math.max(1, value / top * height);
                shapes.push(
                    shape("rect", "plot-bar " + series.className, {
                        x: edge.left + index * plot.stepWidth,
                        y: y(below) - bar,
                        width: Math.max(0.5, plot.stepWidth - gap),
                        height: bar,
                    })
                );
                below += value;
            }
        });
    });
    plot.drawing.setAttribute("viewBox", "0 0 " + Math.max(1, plot.width) + " " + plotHeight);
    plot.drawing.replaceChildren.apply(plot.drawing, shapes.concat(timeTexts(data, plot, inner)));
    plot.box.setAttribute("aria-valuemin", "0");
    plot.box.setAttribute("aria-valuemax", String(data.steps.length - 1));
    if (plot.index === null) {
        plot.box.setAttribute("aria-valuenow", String(data.steps.length - 1));
        plot.box.setAttribute("aria-valuetext", data.summary);
    } else {
        choose(plot, Math.min(plot.index, data.steps.length - 1));
    }
}

function timeTexts(data, plot, inner) {
    const most = Math.max(2, inner / 80);
    const span_ms = data.steps.length * data.step_ms;
    const interval_ms = intervals_ms.find(function (ms) { return span_ms / ms <= most; })
        || intervals_ms[intervals_ms.length - 1];
    const shapes = [];
    data.steps.forEach(function (at_ms, index) {
        const x = edge.left + index * plot.stepWidth;
        if (
            isTick(at_ms, data.step_ms, interval_ms)
            && x <= edge.left + inner + edge.right - textWidth
        ) {
            shapes.push(
                shape("line", "plot-grid", {
                    x1: x,
                    x2: x,
                    y1: plotHeight - edge.bottom,
                    y2: plotHeight - edge.bottom + 4,
                })
            );
            const text = shape("text", "plot-text", { x: x, y: plotHeight - 4 });
            const isDay =
                interval_ms >= day_ms || (span_ms > day_ms && isTick(at_ms, data.step_ms, day_ms));
            text.textContent = isDay ? dayWords(at_ms, data.step_ms) : timeWords(at_ms);
            shapes.push(text);
        }
    });
    return shapes;
}

export function showLegend(legend, series) {
    const text = series.map(function (line) { return line.className + line.name; }).join();
    if (legend.dataset.shown !== text) {
        legend.dataset.shown = text;
        legend.replaceChildren.apply(legend, series.map(function (line) {
            const entry = make("span", "plot-legend");
            entry.title = line.name;
            entry.append(make("span", "plot-key " + line.className), line.name);
            return entry;
        }));
    }
}
