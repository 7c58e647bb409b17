//! Line plots as SVG.

use std::error::Error;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 520);

/// Colours that differ for colour-blind readers too (the first eight are Okabe and Ito's).
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(148, 130, 20),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
    RGBColor(110, 60, 160),
];

/// What the axes show.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Name of the horizontal axis.
    pub x: &'static str,
    /// Name and unit of the vertical axis.
    pub y: &'static str,
    /// Whether the vertical axis is logarithmic; it starts at zero otherwise.
    pub log: bool,
}

/// One line of a plot.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, by rising x; those with y <= 0 are left out of a logarithmic plot.
    pub points: Vec<(f64, f64)>,
}

/// Draws `lines`.
///
/// # Errors
///
/// When nothing can be drawn, which for SVG in memory means values that are no numbers.
pub fn draw(title: &str, axis: Axis, lines: &[Line]) -> Result<String, String> {
    let values = || lines.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let highest = values().fold(0.0, f64::max);
    let lowest = values().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
    if !lowest.is_finite() {
        return Err(format!("plot {title}: no values above zero"));
    }
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let first = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let last = points().map(|p| p.0).fold(0.0, f64::max);
    let mut svg = String::new();
    let drawn = if axis.log {
        let range = (lowest * 0.8..highest * 1.3).log_scale();
        chart(&mut svg, title, axis, lines, first..last, range)
    } else {
        let range = 0.0..highest * 1.15;
        chart(&mut svg, title, axis, lines, first..last, range)
    };
    drawn.map_err(|error| format!("plot {title}: {error}"))?;
    Ok(svg)
}

/// Draws `lines` over a logarithmic horizontal axis, for sizes that differ by magnitudes.
///
/// # Errors
///
/// As [`draw`].
pub fn draw_growth(title: &str, axis: Axis, lines: &[Line]) -> Result<String, String> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let highest = points().map(|p| p.1).fold(0.0, f64::max);
    let lowest = points().map(|p| p.1).filter(|y| *y > 0.0);
    let lowest = lowest.fold(f64::INFINITY, f64::min);
    if !lowest.is_finite() {
        return Err(format!("plot {title}: no values above zero"));
    }
    let first = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let last = points().map(|p| p.0).fold(0.0, f64::max);
    let x_range = (first..last).log_scale();
    let mut svg = String::new();
    let drawn = if axis.log {
        let y_range = (lowest * 0.8..highest * 3.0).log_scale();
        chart(&mut svg, title, axis, lines, x_range, y_range)
    } else {
        chart(&mut svg, title, axis, lines, x_range, 0.0..highest * 1.4)
    };
    drawn.map_err(|error| format!("plot {title}: {error}"))?;
    Ok(svg)
}

fn chart<X, Y>(
    svg: &mut String,
    title: &str,
    axis: Axis,
    lines: &[Line],
    x_range: X,
    y_range: Y,
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x_range, y_range)?;
    chart
        .configure_mesh()
        .x_desc(axis.x)
        .y_desc(axis.y)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| match *y {
            y if y >= 10.0 => format!("{y:.0}"),
            y if y >= 1.0 => format!("{y:.1}"),
            y => format!("{y:.2}"),
        })
        .light_line_style(WHITE)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let visible = line
            .points
            .iter()
            .copied()
            .filter(|p| p.1 > 0.0 || !axis.log);
        chart
            .draw_series(LineSeries::new(visible, colour.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_svg_with_title_and_legend() {
        let line = |name: &str, y| Line {
            name: name.to_owned(),
            points: vec![(1.0, y), (2.0, 3.0)],
        };
        for log in [false, true] {
            let axis = Axis {
                x: "n",
                y: "ms",
                log,
            };
            let svg =
                draw("a title", axis, &[line("one", 1.0), line("two", -1.0)]).expect("a plot");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.contains("a title") && svg.contains("one") && svg.contains("two"));
        }
    }
}
