//! Curves as numbers, and as a picture.

use std::fmt::Display;
use std::ops::Range;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::prelude::*;

use super::curve::Curve;

/// A curve and what it is called.
pub type Named = (String, Curve);
type Points = Vec<(f64, f64)>;

/// Pixels of the picture, and the units of a drawing in each: plotters rounds to whole units.
const SIZE: (u32, u32) = (960, 540);
const FINE: u32 = 4;
const TEXT: u32 = 20 * FINE;
/// The colours drawn, for light, and what they are for dark.
const INK: RGBColor = RGBColor(0x59, 0x5c, 0x63);
const GRID: RGBColor = RGBColor(0xdc, 0xdc, 0xd8);
const PAPER: RGBColor = RGBColor(0xfd, 0xfd, 0xfc);
const LINES: [(RGBColor, &str); 8] = [
    (RGBColor(0x00, 0x72, 0xb2), "#5cb8f0"),
    (RGBColor(0xd5, 0x5e, 0x00), "#ff8f45"),
    (RGBColor(0x00, 0x8a, 0x65), "#35c79a"),
    (RGBColor(0xb0, 0x4f, 0x86), "#e59ac4"),
    (RGBColor(0xa8, 0x7a, 0x00), "#e8b93a"),
    (RGBColor(0x6a, 0x4f, 0xc8), "#ae9cf5"),
    (RGBColor(0x20, 0x22, 0x26), "#e6e7ea"),
    (RGBColor(0x8a, 0x5a, 0x3c), "#cf9f80"),
];

/// `step,loss` as CSV; of several curves a column for each.
pub fn csv(curves: &[Named]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = curves.iter().map(|(name, _)| if curves.len() == 1 { "loss" } else { name });
    writer.write_record(["step"].into_iter().chain(names))?;
    for step in 0..curves.iter().map(|(_, curve)| curve.losses().len()).max().unwrap_or(0) {
        let losses = curves.iter().map(|(_, curve)| curve.losses().get(step).copied().unwrap_or(f32::NAN));
        writer.serialize((step, losses.collect::<Vec<_>>()))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// The curves as a picture, on a logarithmic scale of losses; several are named.
pub fn svg(curves: &[Named], title: &str) -> Result<String> {
    let lines: Vec<(&str, Points)> = curves.iter().map(|(name, curve)| (name.as_str(), points(curve))).collect();
    let empty = lines.iter().find(|(_, points)| points.is_empty());
    ensure!(empty.is_none() && !lines.is_empty(), "no loss of {} can be drawn", empty.map_or("nothing", |line| line.0));
    let (mut svg, units) = (String::new(), (SIZE.0 * FINE, SIZE.1 * FINE));
    chart(&SVGBackend::with_string(&mut svg, units).into_drawing_area(), title, &lines).map_err(failed)?;
    let (_, view) = svg.split_once(" viewBox").context("plotters drew nothing")?;
    let (view, drawing) = view.split_once('>').context("plotters drew nothing")?;
    let ((width, height), style) = (SIZE, style(lines.len()));
    Ok(format!("<svg width=\"{width}\" height=\"{height}\" viewBox{view}>\n{style}{drawing}"))
}

/// What can be drawn of a curve.
fn points(curve: &Curve) -> Points {
    let points = curve.losses().iter().enumerate().map(|(step, &loss)| (step as f64, f64::from(loss)));
    points.filter(|point| point.1 > 0.0 && point.1.is_finite()).collect()
}

/// A style goes before an attribute, so these rules see what plotters wrote. A viewer that knows no styles shows the
/// colours for light.
fn style(lines: usize) -> String {
    let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
    let rule = |(light, dark): &(RGBColor, &str)| format!("  [stroke=\"{}\"] {{ stroke: {dark}; }}\n", hex(*light));
    let rules: String = LINES.iter().take(lines).map(rule).collect();
    let (paper, ink, grid) = (hex(PAPER), hex(INK), hex(GRID));
    format!(
        "<style>
svg {{ background: {paper}; font-variant-numeric: tabular-nums; }}
@media (prefers-color-scheme: dark) {{
  svg {{ background: #16171a; }}
  [fill=\"{ink}\"] {{ fill: #a9acb3; }}
  [stroke=\"{grid}\"] {{ stroke: #34363b; }}
{rules}}}
</style>
"
    )
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn chart(area: &Area<'_>, title: &str, lines: &[(&str, Points)]) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
    let steps = 0.0..lines.iter().flat_map(|line| &line.1).fold(1.0, |last, point| point.0.max(last));
    let losses = decades(lines);
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(TEXT * 5 / 4))
        .margin(TEXT)
        .x_label_area_size(TEXT * 3)
        .y_label_area_size(TEXT * 4)
        .build_cartesian_2d(steps, losses.clone().log_scale().with_key_points(ticks(&losses)))?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(FINE))
        .axis_style(GRID.stroke_width(FINE))
        .label_style(text(TEXT));
    mesh.x_desc("step").y_desc("mean cross-entropy").x_label_formatter(&|step| format!("{step:.0}"));
    mesh.y_label_formatter(&|loss| format!("{loss}")).draw()?;
    for ((name, points), (colour, _)) in lines.iter().zip(LINES.iter().cycle()) {
        let series = chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2 * FINE)))?;
        let (half, style) = (TEXT as i32 * 2, colour.stroke_width(4 * FINE));
        series.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + half, y)], style));
    }
    if lines.len() > 1 {
        let mut legend = chart.configure_series_labels();
        legend.position(SeriesLabelPosition::LowerLeft).margin(TEXT / 2).legend_area_size(TEXT * 5 / 2);
        legend.label_font(text(TEXT)).draw()?;
    }
    area.present()
}

/// What holds every loss, with a little room.
fn decades(lines: &[(&str, Points)]) -> Range<f64> {
    let losses = lines.iter().flat_map(|line| &line.1).map(|point| point.1);
    let (low, high) = losses.fold((f64::MAX, 0f64), |(low, high), loss| (low.min(loss), high.max(loss)));
    low / 1.25..high * 1.25
}

/// 1, 2 and 5 of each power of ten.
fn ticks(losses: &Range<f64>) -> Vec<f64> {
    let powers = losses.start.log10().floor() as i32..=losses.end.log10().floor() as i32;
    let ticks = powers.flat_map(|power| [1, 2, 5].map(|digit| format!("{digit}e{power}").parse().unwrap_or(f64::NAN)));
    ticks.filter(|tick| losses.contains(tick)).collect()
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw the curve: {error}")
}
