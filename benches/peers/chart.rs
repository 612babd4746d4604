//! The launches as a picture: a bar from the least time that counts to the median, a line to the 99th percentile, on a
//! logarithmic scale. It has its own colours for a dark page.

use std::fmt::Write as _;
use std::path::Path;

use crate::common::{Record, Result};

const WIDTH: f64 = 960.0;
const LABELS: f64 = 250.0;
const FIGURES: f64 = 120.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 34.0;

const GROUPS: [(&str, &str); 5] = [
    ("none", "no isolation"),
    ("ns", "seven namespaces"),
    ("root", "and a pivoted root"),
    ("limits", "and limits by cgroups"),
    ("hardened", "hardened: and a filter, no capabilities, read-only, limits"),
];

const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #24292f } .head { font-weight: 600 } .dim { fill: #57606a } \
.grid { stroke: #d0d7de } .peer { fill: #8c959f } .ours { fill: #0969da } .base { fill: #bf8700 } .p99 { stroke: #57606a } \
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .dim { fill: #9198a1 } .grid { stroke: #3d444d } \
.peer { fill: #656c76 } .ours { fill: #4493f8 } .base { fill: #d29922 } .p99 { stroke: #9198a1 } }";

struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn of(rows: &[&Record]) -> Self {
        let all = |key: &str| rows.iter().filter_map(|row| row.get(key)).collect::<Vec<_>>();
        let least = all("median_us").into_iter().fold(f64::MAX, f64::min);
        let most = all("p99_us").into_iter().fold(f64::MIN, f64::max);
        // To a half of a decade, so that the shortest bar is one.
        Self { least: least / 2.0, most: most * 1.1 }
    }

    fn x(&self, microseconds: f64) -> f64 {
        let part = (microseconds / self.least).ln() / (self.most / self.least).ln();
        LABELS + part.clamp(0.0, 1.0) * (WIDTH - LABELS - FIGURES)
    }

    /// 1, 2 and 5 of each decade, in microseconds.
    fn marks(&self) -> Vec<f64> {
        let decades = (0..8).map(|decade| 10f64.powi(decade));
        let marks = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
        marks.filter(|mark| (self.least..self.most).contains(mark)).collect()
    }
}

fn milliseconds(microseconds: f64) -> String {
    let ms = microseconds / 1e3;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Of the launches of /bin/true.
fn draw(records: &[Record]) -> std::result::Result<String, std::fmt::Error> {
    let is_row = |record: &&Record| record.get_text("name").ends_with("/true") && record.get("median_us").is_some();
    let of =
        |group: &str| records.iter().filter(is_row).filter(|row| row.get_text("group") == group).collect::<Vec<_>>();
    let groups: Vec<_> =
        GROUPS.iter().map(|(group, title)| (*title, of(group))).filter(|(_, rows)| !rows.is_empty()).collect();
    let all: Vec<_> = groups.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    let scale = Scale::of(&all);
    #[allow(clippy::cast_precision_loss)]
    let (rows, heads) = (all.len() as f64, groups.len() as f64);
    let height = 96.0 + rows * ROW + heads * HEAD;
    let mut out = String::new();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Launches of /bin/true, by isolation">"#
    )?;
    writeln!(out, "<style>{STYLE}</style>")?;
    writeln!(
        out,
        r#"<text class="head" x="8" y="20">A launch of /bin/true, from the start until its end has been waited for</text>"#
    )?;
    let machine = records.iter().find(|record| record.get_text("name") == "machine");
    let machine = machine.map_or_else(String::new, |machine| {
        let cores = machine.get("cores").unwrap_or(0.0);
        format!("{}, {cores} cores, Linux {}", machine.get_text("date"), machine.get_text("kernel"))
    });
    writeln!(
        out,
        r#"<text class="dim" x="8" y="38">Milliseconds, on a logarithmic scale. Bar: median; line: 99th percentile. {}</text>"#,
        escaped(&machine)
    )?;
    let (top, bottom) = (58.0, height - 24.0);
    for mark in scale.marks() {
        let x = scale.x(mark);
        writeln!(out, r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#)?;
        let label = if mark < 1e3 { format!("{}", mark / 1e3) } else { format!("{:.0}", mark / 1e3) };
        writeln!(out, r#"<text class="dim" x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, bottom + 16.0)?;
    }
    let mut y = top;
    for (title, rows) in &groups {
        y += HEAD;
        writeln!(out, r#"<text class="head" x="8" y="{:.1}">{}</text>"#, y - 10.0, escaped(title))?;
        for row in rows {
            bar(&mut out, &scale, row, y)?;
            y += ROW;
        }
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn bar(out: &mut String, scale: &Scale, row: &Record, y: f64) -> std::fmt::Result {
    let (peer, median) = (row.get_text("peer"), row.get("median_us").unwrap_or(0.0));
    let class = match peer {
        peer if peer.starts_with("stockade") => "ours",
        "floor" | "std::process::Command" => "base",
        _ => "peer",
    };
    let label = if peer == "floor" { "the bare system calls" } else { peer };
    let (start, end) = (scale.x(scale.least), scale.x(median));
    let p99 = scale.x(row.get("p99_us").unwrap_or(median));
    let middle = y + ROW / 2.0 - 3.0;
    writeln!(out, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#, LABELS - 8.0, y + 12.0, escaped(label))?;
    writeln!(out, r#"<line class="p99" x1="{end:.1}" x2="{p99:.1}" y1="{middle:.1}" y2="{middle:.1}"/>"#)?;
    writeln!(
        out,
        r#"<rect class="{class}" x="{start:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" rx="2"/>"#,
        end - start,
        ROW - 6.0
    )?;
    writeln!(out, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, p99 + 8.0, y + 12.0, milliseconds(median))
}

/// Next to the file of figures, with `.svg` as its end.
pub fn write(file: &str, records: &[Record]) -> Result<()> {
    Ok(std::fs::write(Path::new(file).with_extension("svg"), draw(records)?)?)
}
