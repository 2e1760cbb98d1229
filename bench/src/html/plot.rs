//! The plots of the page, as inline SVG.
//!
//! Drawn larger than shown, so that whole coordinates are fine enough. Logarithmic axes are linear ones over logarithms
//! with labels of our own: only so do the labels fall on whole percentiles and round latencies.

mod scale;

use plotters::coord::Shift;
use plotters::prelude::*;

use self::scale::{Axis, latency_axis, linear_axis, nines_label, time_axis};
use super::HtmlError;
use crate::histogram::LatencyHistogram;
use crate::report::{Phase, Report};

const SIZE: (u32, u32) = (960, 560);
const FONT: (&str, u32) = ("sans-serif", 31);

// The style sheet knows these colours by their numbers.
const INK: RGBColor = RGBColor(0x1c, 0x23, 0x30);
const GRID: RGBColor = RGBColor(0xe1, 0xe5, 0xea);
const COLOUR_A: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const COLOUR_B: RGBColor = RGBColor(0xd9, 0x77, 0x06);

const LINE_WIDTH: u32 = 4;
const DOT_RADIUS: i32 = 6;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Latency over percentile: x is log10 of 1 / (1 - percentile), y of the latency.
pub(super) fn percentiles(latencies: &LatencyHistogram) -> Result<Option<String>, HtmlError> {
    const STEPS_PER_HALF: u32 = 10;
    if latencies.is_empty() {
        return Ok(None);
    }
    let end = (latencies.count() as f64).log10().max(1.0);
    let steps = latencies.as_hdr().iter_quantiles(STEPS_PER_HALF);
    let points: Vec<(f64, f64)> = steps
        .map(|step| {
            let rest = 1.0 - step.quantile_iterated_to();
            let x = if 0.0 < rest { (1.0 / rest).log10().min(end) } else { end };
            (x, step.value_iterated_to() as f64 / 1e3)
        })
        .collect();
    let y = latency_axis(points.iter().map(|(_, us)| *us));
    // Beyond five nines each label is so long that only every other one has room.
    let stride = if end < 6.0 { 1 } else { 2 };
    let labels = (0..=end as u32).step_by(stride).map(f64::from).collect();
    let nines = Axis { range: 0.0..end, labels };
    draw("latency by percentile", |root| {
        let mut chart = frame(root, &nines, &y, &nines_label, &|log_us| scale::latency_label(10_f64.powf(log_us)))?;
        line(&mut chart, points.into_iter().map(|(x, us)| (x, log(us))).collect(), COLOUR_A)
    })
}

/// Entries committed in each second.
pub(super) fn throughput(report: &Report) -> Result<Option<String>, HtmlError> {
    let points: Vec<_> = report.timeline.iter().map(|s| (mid(s.second), s.commits as f64)).collect();
    if points.is_empty() {
        return Ok(None);
    }
    let y = linear_axis(points.iter().map(|(_, commits)| *commits).fold(0.0, f64::max));
    draw("throughput over time", |root| {
        let mut chart = frame(root, &times(report), &y, &scale::time_label, &scale::rate_label)?;
        event_lines(&mut chart, report, &y)?;
        let shade: Vec<_> = [(points[0].0, 0.0)]
            .into_iter()
            .chain(points.iter().copied())
            .chain([(points[points.len() - 1].0, 0.0)])
            .collect();
        chart.draw_series([Polygon::new(shade, COLOUR_A.mix(0.15))])?;
        line(&mut chart, points, COLOUR_A)
    })
}

/// Median and 99% latency of each second.
pub(super) fn latency(report: &Report) -> Result<Option<String>, HtmlError> {
    let seconds = &report.timeline;
    let measured: Vec<f64> = seconds.iter().flat_map(|s| [s.p50_us, s.p99_us]).flatten().collect();
    if measured.is_empty() {
        return Ok(None);
    }
    let y = latency_axis(measured.into_iter());
    draw("latency over time", |root| {
        let label = |log_us: f64| scale::latency_label(10_f64.powf(log_us));
        let mut chart = frame(root, &times(report), &y, &scale::time_label, &label)?;
        event_lines(&mut chart, report, &y)?;
        for (colour, points) in [
            (COLOUR_A, seconds.iter().map(|s| (mid(s.second), s.p50_us)).collect::<Vec<_>>()),
            (COLOUR_B, seconds.iter().map(|s| (mid(s.second), s.p99_us)).collect()),
        ] {
            // A second without commits has no latency: the line breaks there.
            for stretch in points.split(|(_, us)| us.is_none()).filter(|stretch| !stretch.is_empty()) {
                let points = stretch.iter().filter_map(|(x, us)| Some((*x, log((*us)?)))).collect();
                line(&mut chart, points, colour)?;
            }
        }
        Ok(())
    })
}

/// A bar to the mean of each phase, and a line from its median to its 99%.
pub(super) fn phases(report: &Report) -> Result<Option<String>, HtmlError> {
    const BAR_HALF: f64 = 0.33;
    let rows: Vec<_> = Phase::ALL.into_iter().map(|phase| (phase, report.phases_us[phase])).collect();
    let measured = rows.iter().flat_map(|(_, us)| [us.mean, us.p99]).flatten();
    let Some(most) = measured.reduce(f64::max) else { return Ok(None) };
    let x = linear_axis(most);
    // Downwards, as it is read.
    let bottom = rows.len() as f64 - 0.5;
    let names = Axis { range: bottom..-0.5, labels: (0..rows.len()).map(|row| row as f64).collect() };
    let name = |row: f64| rows.get(row.round() as usize).map_or("", |(phase, _)| phase.name()).to_owned();
    draw("phases", |root| {
        let mut chart = frame(root, &x, &names, &scale::latency_label, &name)?;
        for (row, (_, us)) in rows.iter().enumerate() {
            let at = row as f64;
            if let Some(mean) = us.mean {
                let bar = [(0.0, at - BAR_HALF), (mean, at + BAR_HALF)];
                chart.draw_series([Rectangle::new(bar, COLOUR_A.filled())])?;
            }
            if let (Some(p50), Some(p99)) = (us.p50, us.p99) {
                line(&mut chart, vec![(p50, at), (p99, at)], COLOUR_B)?;
            }
        }
        Ok(())
    })
}

/// Draws one plot into text; an empty page of another size would be a bug of the plotting library, hence the error.
fn draw(plot: &'static str, paint: impl FnOnce(&Area<'_>) -> Drawn) -> Result<Option<String>, HtmlError> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let painted = paint(&root).and_then(|()| Ok(root.present()?));
    drop(root);
    match painted {
        Ok(()) => Ok(Some(svg)),
        Err(reason) => Err(HtmlError { plot, reason: reason.to_string() }),
    }
}

/// Axes with their labels and a light grid.
fn frame<'a, 'b>(
    root: &'a Area<'b>,
    x: &Axis,
    y: &Axis,
    x_label: &dyn Fn(f64) -> String,
    y_label: &dyn Fn(f64) -> String,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    const CHARACTER_WIDTH: usize = 15;
    let widest = y.labels.iter().map(|at| y_label(*at).chars().count()).max().unwrap_or(0);
    let mut chart = ChartBuilder::on(root)
        .margin(12)
        .margin_right(60)
        .x_label_area_size(52)
        .y_label_area_size((24 + widest * CHARACTER_WIDTH) as u32)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .x_labels(x.labels.len())
        .y_labels(y.labels.len())
        .x_label_formatter(&|at| x_label(*at))
        .y_label_formatter(&|at| y_label(*at))
        .label_style(FONT.into_font().color(&INK))
        .axis_style(INK)
        .bold_line_style(GRID.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(chart)
}

/// A line with a dot at each point if there are few, so that a lone point is seen.
fn line(chart: &mut Chart<'_, '_>, points: Vec<(f64, f64)>, colour: RGBColor) -> Drawn {
    const DOTTED_MAX: usize = 40;
    if points.len() <= DOTTED_MAX {
        chart.draw_series(points.iter().map(|at| Circle::new(*at, DOT_RADIUS, colour.filled())))?;
    }
    chart.draw_series(LineSeries::new(points, colour.stroke_width(LINE_WIDTH)))?;
    Ok(())
}

/// An upright line for each event within the run.
fn event_lines(chart: &mut Chart<'_, '_>, report: &Report, y: &Axis) -> Drawn {
    let times = times(report);
    for event in report.events.iter().filter(|event| times.range.contains(&event.at_seconds)) {
        let ends = [(event.at_seconds, y.range.start), (event.at_seconds, y.range.end)];
        chart.draw_series(DashedLineSeries::new(ends, 8, 8, INK.stroke_width(2)))?;
    }
    Ok(())
}

fn times(report: &Report) -> Axis {
    time_axis(report.timeline.iter().map(|s| s.second + 1).max().unwrap_or(1))
}

/// A second is drawn at its middle.
fn mid(second: u32) -> f64 {
    f64::from(second) + 0.5
}

/// The logarithm of a latency; what is too short to measure counts as a nanosecond.
fn log(us: f64) -> f64 {
    us.max(1e-3).log10()
}
