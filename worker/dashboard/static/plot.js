// The plot of a service's last hour, minute by minute.

import { make, setText } from "./elements.js";
import { count, hourAndMinute, plural } from "./words.js";

const svg = "http://www.w3.org/2000/svg";
const plotHeight = 48;

function shape(name, className) {
    const found = document.createElementNS(svg, name);
    found.setAttribute("class", className);
    return found;
}

export function makePlot() {
    const figure = make("figure", "keys-plot");
    const caption = make("figcaption");
    const words = make("span");
    caption.append(words);
    [["calls", "calls"], ["refused", "of them refused (429)"]].forEach(function (pair) {
        const entry = make("span", "plot-legend");
        entry.append(make("span", "plot-key plot-key-" + pair[0]), pair[1]);
        caption.append(entry);
    });
    const drawing = document.createElementNS(svg, "svg");
    drawing.setAttribute("viewBox", "0 0 600 " + plotHeight);
    drawing.setAttribute("preserveAspectRatio", "none");
    drawing.setAttribute("role", "img");
    const minutes = [];
    for (let minute = 0; minute < 60; minute += 1) {
        const group = shape("g", "plot-minute");
        const words_ = document.createElementNS(svg, "title");
        const space = shape("rect", "plot-space");
        space.setAttribute("x", String(minute * 10));
        space.setAttribute("width", "10");
        space.setAttribute("height", String(plotHeight));
        const bars = ["calls", "refused"].map(function (kind) {
            const bar = shape("rect", "plot-" + kind);
            bar.setAttribute("x", String(minute * 10 + 1));
            bar.setAttribute("width", "8");
            return bar;
        });
        group.append(words_, space, bars[0], bars[1]);
        drawing.append(group);
        minutes.push({ words: words_, bars: bars });
    }
    const highest = make("span");
    const scale = make("div", "plot-scale");
    scale.append(highest, make("span", "", "0"));
    const times = make("div", "plot-times");
    const ticks = [make("span"), make("span"), make("span", "", "now")];
    times.append(ticks[0], ticks[1], ticks[2]);
    figure.append(caption, scale, drawing, times);
    return { figure: figure, drawing: drawing, minutes: minutes, words: words, highest: highest, ticks: ticks };
}

export function drawPlot(plot, history, now_ms) {
    const byMinute = new Map(history.map(function (one) { return [Math.round(one.at_ms / 60000), one]; }));
    const highest = Math.max.apply(null, history.map(function (one) { return one.calls; }).concat(1));
    const thisMinute = Math.floor(now_ms / 60000);
    const at = function (minute) { return new Date(minute * 60000).toLocaleTimeString([], hourAndMinute); };
    let calls = 0;
    let refused = 0;
    plot.minutes.forEach(function (its, place) {
        const minute = thisMinute - 59 + place;
        const seen = byMinute.get(minute);
        const one = seen || { calls: 0, refused: 0 };
        calls += one.calls;
        refused += one.refused;
        setText(its.words, at(minute) + ": " + (seen
            ? plural(one.calls, "call") + ", " + count(one.refused) + " refused" : "not seen, Flower was not running"));
        [one.calls, one.refused].forEach(function (number, kind) {
            const height = number ? Math.max(1.5, number / highest * plotHeight) : 0;
            its.bars[kind].setAttribute("height", height.toFixed(2));
            its.bars[kind].setAttribute("y", (plotHeight - height).toFixed(2));
        });
    });
    setText(plot.highest, count(highest));
    setText(plot.ticks[0], at(thisMinute - 59));
    setText(plot.ticks[1], at(thisMinute - 30));
    const text = "Calls a minute, " + (history.length < 60 ? "since Flower's start" : "last hour") + ": "
        + count(calls) + ", " + count(refused) + " refused";
    setText(plot.words, text);
    plot.drawing.setAttribute("aria-label", text);
}
