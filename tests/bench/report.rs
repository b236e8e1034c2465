//! Figures: a table for the reader, a CSV for programs, a plot for the page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// Measurements of one case by one contestant, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) case: String,
    pub(crate) who: &'static str,
    pub(crate) values: Vec<f64>,
}

/// A demand: a figure that must not be above its bar.
#[derive(Clone, Debug)]
struct Bar {
    what: String,
    value: f64,
    limit: f64,
    unit: &'static str,
}

/// Something else than a time: memory, bytes.
#[derive(Clone, Debug)]
struct Figure {
    case: String,
    who: &'static str,
    value: f64,
    unit: &'static str,
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    series: Vec<Series>,
    figures: Vec<Figure>,
    bars: Vec<Bar>,
    peers: Vec<String>,
}

/// The value below which a share of the measurements lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

impl Report {
    /// Takes a series, and says that it is there.
    pub(crate) fn add(&mut self, case: &str, who: &'static str, values: Vec<f64>) -> f64 {
        let middle = median(&values);
        eprintln!("  {case:<42} {who:<22} {middle:>9.2} ms");
        self.series.push(Series { case: case.to_owned(), who, values });
        middle
    }

    /// Takes the median of something else than times.
    pub(crate) fn figure(
        &mut self,
        case: &str,
        who: &'static str,
        values: &[f64],
        unit: &'static str,
    ) {
        let value = median(values);
        eprintln!("  {case:<42} {who:<22} {value:>9.2} {unit}");
        self.figures.push(Figure { case: case.to_owned(), who, value, unit });
    }

    /// Takes a peer with its version, for the line about the machine.
    pub(crate) fn peer(&mut self, version: &str) {
        self.peers.push(version.to_owned());
    }

    /// Takes a demand.
    pub(crate) fn bar(&mut self, what: &str, value: f64, limit: f64, unit: &'static str) {
        self.bars.push(Bar { what: what.to_owned(), value, limit, unit });
    }

    /// Prints the tables and writes NAME.csv and NAME.svg; fails if a bar is missed.
    pub(crate) fn finish(&self, folder: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(folder)?;
        let machine = [&[machine()][..], &self.peers].concat().join("; ");
        println!("\n{machine}\n");
        println!(
            "{:<46} {:<26} {:>9} {:>9} {:>9} {:>9} {:>5}",
            "case", "who", "median ms", "p95 ms", "p99 ms", "min ms", "n"
        );
        let mut csv = String::from("case,who,median_ms,p95_ms,p99_ms,min_ms,max_ms,n\n");
        for Series { case, who, values } in &self.series {
            let [min, p50, p95, p99, max] =
                [0.0, 0.5, 0.95, 0.99, 1.0].map(|share| quantile(values, share));
            println!(
                "{case:<46} {who:<26} {p50:>9.2} {p95:>9.2} {p99:>9.2} {min:>9.2} {:>5}",
                values.len()
            );
            writeln!(
                csv,
                "{},{},{p50:.3},{p95:.3},{p99:.3},{min:.3},{max:.3},{}",
                field(case),
                field(who),
                values.len()
            )?;
        }
        if !self.figures.is_empty() {
            csv.push_str("\ncase,who,value,unit\n");
            println!();
        }
        for Figure { case, who, value, unit } in &self.figures {
            println!("{case:<46} {who:<26} {value:>9.2} {unit}");
            writeln!(csv, "{},{},{value:.3},{unit}", field(case), field(who))?;
        }
        println!("\n{:<62} {:>10} {:>10}", "bar", "measured", "at most");
        let mut missed = 0;
        csv.push_str("\nbar,measured,limit,unit\n");
        for Bar { what, value, limit, unit } in &self.bars {
            let verdict = if value <= limit { "" } else { "  MISSED" };
            missed += usize::from(value > limit);
            println!("{what:<62} {value:>10.3} {limit:>10.3} {unit}{verdict}");
            writeln!(csv, "{},{value:.4},{limit},{unit}", field(what))?;
        }
        fs::write(folder.join(format!("{name}.csv")), format!("# {machine}\n{csv}"))?;
        fs::write(folder.join(format!("{name}.svg")), self.plot(name))?;
        println!("\nwritten: {0}/{name}.csv, {0}/{name}.svg", folder.display());
        anyhow::ensure!(missed == 0, "{missed} bars were missed");
        Ok(())
    }

    /// Medians as horizontal bars on a logarithmic scale, 0.1 ms to 100 s, with p95 as a tick.
    fn plot(&self, name: &str) -> String {
        const LEFT: f64 = 420.0;
        const WIDTH: f64 = 460.0;
        const ROW: f64 = 20.0;
        let x = |ms: f64| LEFT + WIDTH * ((ms.max(0.1).log10() + 1.0) / 6.0).clamp(0.0, 1.0);
        let height = self.series.len() as f64 * ROW + 70.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"920\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">{name}: median (bar) and 95th percentile (tick), milliseconds, logarithmic</text>\n"
        );
        for power in -1..=5 {
            let (at, label) = (x(10f64.powi(power)), 10f64.powi(power));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.0}\" y1=\"30\" x2=\"{at:.0}\" y2=\"{:.0}\" stroke=\"#ddd\"/><text x=\"{at:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>",
                height - 30.0,
                height - 12.0
            );
        }
        for (at, Series { case, who, values }) in self.series.iter().enumerate() {
            let y = 36.0 + at as f64 * ROW;
            let (middle, high) = (median(values), quantile(values, 0.95));
            let colour = match *who {
                "viaduct" => "#2a7f62",
                "floor" | "empty" => "#999999",
                _ => "#c1666b",
            };
            let _ = writeln!(
                svg,
                "<text x=\"10\" y=\"{:.0}\">{case}: {who}</text><rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"13\" fill=\"{colour}\"/><line x1=\"{2:.1}\" y1=\"{y:.0}\" x2=\"{2:.1}\" y2=\"{3:.0}\" stroke=\"black\"/><text x=\"{4:.1}\" y=\"{0:.0}\">{middle:.2}</text>",
                y + 11.0,
                x(middle) - LEFT,
                x(high),
                y + 13.0,
                x(high.max(middle)) + 5.0
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// A field of a CSV line.
fn field(text: &str) -> String {
    if text.contains([',', '"']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// Machine and versions in one line.
fn machine() -> String {
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        let text =
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let peer = first_line("dpkg-query", &["-W", "-f", "${Version}", "containernetworking-plugins"]);
    format!(
        "{} x {}; Linux {}; viaduct {}; containernetworking-plugins {peer}; {}; {}",
        cores,
        model.trim_start_matches(['\t', ':', ' ']),
        first_line("uname", &["-r"]),
        env!("CARGO_PKG_VERSION"),
        first_line("iptables", &["--version"]),
        first_line("nft", &["--version"]),
    )
}
