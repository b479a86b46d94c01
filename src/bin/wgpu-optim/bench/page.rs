//! A record as a page: one file of HTML with its charts inside, which asks the network for nothing.

mod chart;
mod series;
mod table;

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::chart::Chart;
use self::series::{Line, Mark, Of};
use super::record::{Clock, Crossover, Record};
use crate::report::{count, size};

/// The whole page.
///
/// # Errors
/// Where a chart cannot be drawn.
pub fn page(record: &Record) -> Result<String> {
    let rules = series::rules(record);
    let sections = rules.iter().map(|rule| section(record, rule)).collect::<Result<Vec<_>>>()?;
    let title = title(record, &rules);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("page/style.css"))) }
            }
            body {
                h1 { (title) }
                (facts(record))
                @for section in sections { (section) }
                (table::every_row(record))
            }
        }
    };
    Ok(page.into_string())
}

/// What was compared.
fn title(record: &Record, rules: &[Of<'_>]) -> String {
    let rules: Vec<&str> = rules.iter().map(|of| of.rule).collect();
    let what = match rules.as_slice() {
        [] => "No optimizer step".into(),
        [one] => format!("The {one} step"),
        [few @ .., last] if few.len() < 3 => format!("The steps of {} and {last}", few.join(", ")),
        many => format!("The steps of {} rules", many.len()),
    };
    let paths = series::paths(record);
    match paths.as_slice() {
        [] => what,
        [one] => format!("{what}, timed on the path {one}"),
        [some @ .., last] => format!("{what}, timed on the paths {} and {last}", some.join(", ")),
    }
}

/// The machine, the adapter and the command.
fn facts(record: &Record) -> Markup {
    let machine = &record.machine;
    let cache = machine.cache.map(|bytes| format!(", last-level cache {}", size(bytes))).unwrap_or_default();
    html! {
        dl {
            dt { "CPU" }
            dd { (machine.cpu) ", " (count(machine.threads as u64, "thread")) }
            dt { "Memory" }
            dd { (size(machine.memory)) (cache) }
            dt { "System" }
            dd { (machine.system) }
            dt { "Adapter" }
            dd { (adapter(record)) }
            dt { "Made by" }
            dd { "wgpu-optim " (machine.version) ": " (command(&record.command)) }
        }
    }
}

/// Its words, none of which is broken at a hyphen.
fn command(command: &str) -> Markup {
    html! { code { @for word in command.split_whitespace() { span { (word) } " " } } }
}

fn adapter(record: &Record) -> Markup {
    let Some(adapter) = &record.machine.adapter else { return html! { "none" } };
    html! {
        (adapter.name) ", " (adapter.backend)
        @if !adapter.driver.is_empty() { ", driver " (adapter.driver) }
        ": "
        @if adapter.software {
            strong.warn { "software adapter, not a GPU" }
        } @else {
            (adapter.kind)
        }
    }
}

/// All that there is to say of a rule.
fn section(record: &Record, of: &Of<'_>) -> Result<Markup> {
    let (throughput, ratio) = (throughput(of)?, ratio(record, of)?);
    Ok(html! {
        section {
            h2 { (of.rule) }
            @if of.on_software() {
                p { "The path gpu ran on a " strong.warn { "software adapter, not a GPU" } ". What is told of a GPU is told of it." }
            }
            div.pair { (throughput) (ratio) }
            div.pair { (table::milliseconds(of)) (table::shares(of)) }
        }
    })
}

fn throughput(of: &Of<'_>) -> Result<Markup> {
    let lines = of.throughput();
    if lines.is_empty() {
        return Ok(html! {});
    }
    let label = format!("{}: gigabytes per second against the number of elements", of.rule);
    let svg = Chart { unit: "GB/s", lines: &lines, level: None, crossings: Vec::new() }.svg(&label)?;
    let told = match of.clock(Clock::Timestamp) {
        Some(Clock::Timestamp) => {
            "Times on the path gpu are the device's own timestamps around the work alone, the others the wall's."
        }
        Some(Clock::Wall) => {
            "All times are the wall's, on the path gpu from before the submit until the device is idle."
        }
        None => "All times are the wall's.",
    };
    Ok(html! {
        figure {
            h3 { "Throughput by length" }
            (PreEscaped(svg))
            (legend(&lines))
            figcaption {
                "One tensor; bytes that a step must read and write, over its median time. Dashed: the fastest plain \
                 kernel that moves as many bytes on the same device, which no step should beat. " (told)
            }
        }
    })
}

fn ratio(record: &Record, of: &Of<'_>) -> Result<Markup> {
    let lines = of.ratios();
    let found: Vec<&Crossover> = record.crossovers.iter().filter(|crossover| crossover.rule == of.rule).collect();
    if lines.is_empty() && found.is_empty() {
        return Ok(html! {});
    }
    let svg = if lines.is_empty() { None } else { Some(ratio_chart(of, &lines, &found)?) };
    let clock = match of.clock(Clock::Wall) {
        Some(Clock::Timestamp) => "the GPU's own timestamps, without the submit",
        _ => "the wall",
    };
    Ok(html! {
        figure {
            h3 { "GPU against CPU by length" }
            @if let Some(svg) = svg { (PreEscaped(svg)) (legend(&lines)) }
            @for crossover in found { p { (sentence(crossover)) } }
            figcaption {
                "The time of a step on the path gpu over that on the path cpu, by " (clock) "; below 1 the GPU is \
                 faster. Resident: everything stays on the GPU. Travelling: at each step the gradients go up and the \
                 parameters come back. A thin upright line is where a path overtakes the other."
            }
        }
    })
}

fn ratio_chart(of: &Of<'_>, lines: &[Line], found: &[&Crossover]) -> Result<String> {
    let class = |crossover: &Crossover| if crossover.travelling { "travelling" } else { "resident" };
    let crossing = |crossover: &&Crossover| {
        let length = crossover.elements.filter(|length| *length > 0.0 && !crossover.at_once)?;
        Some((length, class(crossover)))
    };
    let crossings = found.iter().filter_map(crossing).collect();
    let label = format!("{}: time on the GPU over time on the CPU against the number of elements", of.rule);
    Chart { unit: "GPU time / CPU time", lines, level: Some(1.0), crossings }.svg(&label)
}

/// A crossover in words.
fn sentence(crossover: &Crossover) -> Markup {
    let how = if crossover.travelling { "Travelling" } else { "Resident" };
    html! {
        (how) ": "
        @match (crossover.elements, crossover.at_once) {
            (None, _) => "the GPU is faster at none of the lengths that were measured.",
            (Some(length), true) => {
                "the GPU is faster at the shortest length that was measured already, " (table::whole(length)) "."
            }
            (Some(length), false) => { "the GPU is faster from about " (table::whole(length)) " elements on." }
        }
    }
}

/// The names of the lines, each after a piece of it.
fn legend(lines: &[Line]) -> Markup {
    html! {
        ul.legend {
            @for line in lines {
                li { (sample(line)) (line.name) }
            }
        }
    }
}

/// A piece of a line with its mark, in the units of the charts so that dashes look alike.
fn sample(line: &Line) -> Markup {
    let class = line.look.class;
    let (stroke, fill) = (format!("stroke {class}"), format!("fill {class}"));
    html! {
        svg viewBox="0 0 150 60" aria-hidden="true" {
            polyline class=(stroke) fill="none" stroke-width="9" points="0,30 150,30" {}
            @match line.look.mark {
                Mark::Circle => circle class=(fill) cx="75" cy="30" r="18" {},
                Mark::Square => rect class=(fill) x="59" y="14" width="32" height="32" {},
                Mark::Triangle => polygon class=(fill) points="75,3 98,43 52,43" {},
                Mark::None => "",
            }
        }
    }
}

#[cfg(test)]
pub mod tests;
