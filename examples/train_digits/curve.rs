//! The loss by step: as numbers, and as a picture.

use std::fmt::Display;
use std::ops::Range;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::prelude::*;

use super::telemetry::Sample;

/// Pixels of the picture, and the units of a drawing in each: plotters rounds to whole units.
const SIZE: (u32, u32) = (960, 540);
const FINE: u32 = 4;
const TEXT: u32 = 20 * FINE;
/// The colours drawn, for light; [`STYLE`] has others for dark.
const INK: RGBColor = RGBColor(0x59, 0x5c, 0x63);
const GRID: RGBColor = RGBColor(0xdc, 0xdc, 0xd8);
const LINE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
/// A style goes before an attribute, so these rules see what plotters wrote. A viewer that knows no styles shows the
/// colours for light.
const STYLE: &str = r##"<style>
svg { background: #fdfdfc; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  svg { background: #16171a; }
  [fill="#595C63"] { fill: #a9acb3; }
  [stroke="#DCDCD8"] { stroke: #34363b; }
  [stroke="#0072B2"] { stroke: #5cb8f0; }
}
</style>
"##;

/// The loss before each step, from step 0 on; NaN where it did not arrive.
#[derive(Default)]
pub struct Curve {
    losses: Vec<f32>,
}

impl Curve {
    pub fn new(losses: Vec<f32>) -> Self {
        Self { losses }
    }

    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    pub fn extend(&mut self, samples: impl IntoIterator<Item = Sample>) {
        for Sample { step, loss, .. } in samples {
            let step = step as usize;
            self.losses.resize(self.losses.len().max(step + 1), f32::NAN);
            self.losses[step] = loss;
        }
    }

    /// `step,loss` as CSV.
    pub fn csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["step", "loss"])?;
        self.losses.iter().enumerate().try_for_each(|point| writer.serialize(point))?;
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// The curve as a picture, on a logarithmic scale of losses.
    pub fn svg(&self, title: &str) -> Result<String> {
        let drawing = self.drawing(title)?;
        let (_, view) = drawing.split_once(" viewBox").context("plotters drew nothing")?;
        let (view, drawing) = view.split_once('>').context("plotters drew nothing")?;
        let (width, height) = SIZE;
        Ok(format!("<svg width=\"{width}\" height=\"{height}\" viewBox{view}>\n{STYLE}{drawing}"))
    }

    fn drawing(&self, title: &str) -> Result<String> {
        let points = self.losses.iter().enumerate().map(|(step, &loss)| (step as f64, f64::from(loss)));
        let points: Vec<(f64, f64)> = points.filter(|point| point.1 > 0.0 && point.1.is_finite()).collect();
        ensure!(!points.is_empty(), "no loss of {} can be drawn", self.losses.len());
        let (mut svg, units) = (String::new(), (SIZE.0 * FINE, SIZE.1 * FINE));
        chart(&SVGBackend::with_string(&mut svg, units).into_drawing_area(), title, points).map_err(failed)?;
        Ok(svg)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn chart(area: &Area<'_>, title: &str, points: Vec<(f64, f64)>) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
    let steps = 0.0..points.iter().fold(1.0, |last, point| point.0.max(last));
    let losses = decades(&points);
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
    chart.draw_series(LineSeries::new(points, LINE.stroke_width(2 * FINE)))?;
    area.present()
}

/// What holds every loss, with a little room.
fn decades(points: &[(f64, f64)]) -> Range<f64> {
    let (low, high) = points.iter().fold((f64::MAX, 0f64), |(low, high), point| (low.min(point.1), high.max(point.1)));
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
