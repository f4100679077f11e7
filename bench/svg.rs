//! Pictures: lines, boxes and words.

use std::fmt::Write;

/// A picture that is being drawn, in pixels from the upper left corner.
pub struct Svg(String);

impl Svg {
    pub fn new(width: f64, height: f64) -> Svg {
        Svg(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ))
    }

    // Writing to a text cannot fail.

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ =
            writeln!(self.0, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>");
    }

    pub fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(self.0, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", points.join(" "));
    }

    pub fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    /// `anchor` is start, middle or end.
    pub fn text(&mut self, at: (f64, f64), anchor: &str, words: &str) {
        let words = words.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(self.0, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{words}</text>", at.0, at.1);
    }

    /// What the colours mean, from left to right.
    pub fn legend(&mut self, left: f64, width: f64, names: &[(&str, &str)]) {
        for (place, (what, colour)) in names.iter().enumerate() {
            let x = left + width * place as f64;
            self.bar((x, 14.0), (12.0, 12.0), colour);
            self.text((x + 18.0, 24.0), "start", what);
        }
    }

    pub fn end(self) -> String {
        self.0 + "</svg>\n"
    }
}
