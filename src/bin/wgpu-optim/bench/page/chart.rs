//! A chart on two logarithmic axes, as SVG whose colours are classes of the style sheet.

use std::fmt::Display;
use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange, LogCoord, WithKeyPoints};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use regex::{Captures, Regex};

use super::series::{Line, Mark};

/// Units of the drawing. plotters rounds to whole ones, so they are about a quarter of a pixel on a phone.
const SIZE: (u32, u32) = (1440, 1120);
/// What plotters divides by 1.24 to make the size of a letter: 50 units, which are 11 pixels on a phone.
const TEXT: u32 = 62;
const STROKE: u32 = 9;
const MARK: i32 = 18;

/// What a chart shows.
pub struct Chart<'a> {
    /// What the vertical axis counts.
    pub unit: &'a str,
    pub lines: &'a [Line],
    /// A value to tell above from below by.
    pub level: Option<f64>,
    /// Lengths to mark, each with the class of its line.
    pub crossings: Vec<(f64, &'static str)>,
}

/// Classes, each of which has a colour that stands for it, since plotters knows no classes.
const CLASSES: [&str; 11] =
    ["text", "grid", "level", "gpu", "cpu", "twin", "other", "roof-gpu", "roof-cpu", "resident", "travelling"];

fn ink(class: &str) -> RGBColor {
    let place = CLASSES.iter().position(|name| *name == class).unwrap_or(0);
    RGBColor(0xfe, 0xdc, place as u8)
}

/// Puts `class="stroke gpu"` where plotters wrote the colour that stands for it.
fn with_classes(svg: &str) -> Result<String> {
    let colour = Regex::new(r##"(fill|stroke)="#FEDC([0-9A-F]{2})""##)?;
    let class = |found: &Captures<'_>| {
        let place = usize::from_str_radix(&found[2], 16).unwrap_or(0);
        format!("class=\"{} {}\"", &found[1], CLASSES.get(place).unwrap_or(&CLASSES[0]))
    };
    Ok(colour.replace_all(svg, class).into_owned())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A logarithmic axis, with ticks of our own: plotters' lie where there is room, not where they are read.
type Axis = WithKeyPoints<LogCoord<f64>>;
type Context<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

impl Chart<'_> {
    /// The `<svg>`, told in words by `label`.
    pub fn svg(&self, label: &str) -> Result<String> {
        let mut svg = String::new();
        self.draw(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area())?;
        let (width, height) = SIZE;
        let drawn = format!("<svg width=\"{width}\" height=\"{height}\"");
        let label = maud::html! { (label) }.into_string();
        let ours = format!("<svg class=\"chart\" role=\"img\" aria-label=\"{label}\"");
        with_classes(&svg.replacen(&drawn, &ours, 1))
    }

    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = span(points().map(|point| point.0));
        let y = span(points().map(|point| point.1).chain(self.level));
        let mut chart = ChartBuilder::on(area)
            .margin_top(TEXT * 3 / 2)
            .margin_right(TEXT)
            .x_label_area_size(TEXT * 5 / 2)
            .y_label_area_size(TEXT * 5 / 2)
            .build_cartesian_2d(axis(&x), axis(&y))
            .map_err(failed)?;
        self.draw_axes(area, &mut chart)?;
        self.draw_guides(&mut chart, &x, &y)?;
        for line in self.lines {
            draw_line(&mut chart, line)?;
        }
        area.present().map_err(failed)
    }

    fn draw_axes(&self, area: &Area<'_>, chart: &mut Context<'_>) -> Result<()> {
        let text = ("sans-serif", TEXT).into_font().color(&ink("text"));
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).bold_line_style(ink("grid").stroke_width(3)).axis_style(ink("grid"));
        mesh.label_style(text.clone()).x_label_formatter(&|x| number(*x)).y_label_formatter(&|y| number(*y));
        mesh.draw().map_err(failed)?;
        let (right, bottom) = (SIZE.0 as i32 - TEXT as i32, SIZE.1 as i32 - TEXT as i32 / 4);
        let (above, below) = (Pos::new(HPos::Left, VPos::Top), Pos::new(HPos::Right, VPos::Bottom));
        area.draw(&Text::new(self.unit, (0, 0), text.clone().pos(above))).map_err(failed)?;
        area.draw(&Text::new("elements", (right, bottom), text.pos(below))).map_err(failed)
    }

    /// The level, and the lengths at which a line crosses it.
    fn draw_guides(&self, chart: &mut Context<'_>, x: &Range<f64>, y: &Range<f64>) -> Result<()> {
        let mut draw = |from, to, class| {
            let line = PathElement::new(vec![from, to], ink(class).stroke_width(STROKE / 2));
            chart.draw_series([line]).map(|_| ()).map_err(failed)
        };
        if let Some(level) = self.level {
            draw((x.start, level), (x.end, level), "level")?;
        }
        for &(length, class) in self.crossings.iter().filter(|(length, _)| x.contains(length)) {
            draw((length, y.start), (length, y.end), class)?;
        }
        Ok(())
    }
}

fn draw_line(chart: &mut Context<'_>, line: &Line) -> Result<()> {
    let ink = ink(line.look.class);
    let mut points = line.points.clone();
    if let (&[(x, y)], Mark::None) = (points.as_slice(), line.look.mark) {
        // A line of one point and no mark would not be seen.
        points = vec![(x / 1.5, y), (x * 1.5, y)];
    }
    let path = PathElement::new(points.clone(), ink.stroke_width(STROKE));
    chart.draw_series([path]).map_err(failed)?;
    let points = points.into_iter();
    let drawn = match line.look.mark {
        Mark::Circle => chart.draw_series(points.map(|at| Circle::new(at, MARK, ink.filled()))),
        Mark::Triangle => chart.draw_series(points.map(|at| TriangleMarker::new(at, MARK * 3 / 2, ink.filled()))),
        Mark::Square => chart.draw_series(points.map(|at| EmptyElement::at(at) + square(ink))),
        Mark::None => return Ok(()),
    };
    drawn.map(|_| ()).map_err(failed)
}

fn square(ink: RGBColor) -> Rectangle<(i32, i32)> {
    let half = MARK * 9 / 10;
    Rectangle::new([(-half, -half), (half, half)], ink.filled())
}

/// What holds these numbers, with room at both ends: eight tenths of a decade at least.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let logs = values.map(f64::log10);
    let (low, high) = logs.fold((f64::MAX, f64::MIN), |(low, high), log| (log.min(low), log.max(high)));
    if low > high {
        return 1.0..10.0;
    }
    let room = (0.04 * (high - low)).max(0.4 - (high - low) / 2.0).clamp(0.1, 1.0);
    10f64.powf(low - room)..10f64.powf(high + room)
}

fn axis(span: &Range<f64>) -> Axis {
    span.clone().log_scale().with_key_points(ticks(span))
}

/// Whole powers of ten, few enough to be read, or the 1, 2 and 5 of each where there are fewer than three.
fn ticks(span: &Range<f64>) -> Vec<f64> {
    let (low, high) = (span.start.log10().floor() as i32, span.end.log10().ceil() as i32);
    let every = (high - low + 6) / 7;
    let inside = |tick: &f64| span.contains(tick);
    let powers = (low..=high).filter(|power| power % every.max(1) == 0).map(|power| 10f64.powi(power));
    let whole: Vec<f64> = powers.clone().filter(inside).collect();
    match whole.len() {
        3.. => whole,
        _ => powers.flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * power)).filter(inside).collect(),
    }
}

/// `0.05`, `20`, `5k`, `1M`.
fn number(value: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, name) = units.into_iter().find(|(unit, _)| value >= 0.999 * unit).unwrap_or((1.0, ""));
    let decimals = (-value.log10().floor()).clamp(0.0, 6.0) as usize;
    match value {
        0.0009..1e12 => format!("{:.*}{name}", if value < 0.999 { decimals } else { 0 }, value / unit),
        _ => format!("{value:.0e}"),
    }
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_marks_however_short_or_long_they_are() {
        for span in [span([7.0].into_iter()), span([1.0, 3.0].into_iter()), span([1e-300, 1e300].into_iter())] {
            let ticks = ticks(&span);
            assert!((2..=9).contains(&ticks.len()), "{span:?}: {ticks:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let told = [1e-3, 0.02, 0.5, 1.0, 50.0, 1e3, 2e5, 1e6, 1e9].map(number);
        assert_eq!(told, ["0.001", "0.02", "0.5", "1", "50", "1k", "200k", "1M", "1G"]);
    }
}
