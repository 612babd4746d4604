//! What the benches share: their options, their figures, and the records in which these are written.
#![allow(dead_code)] // no bench uses all of it

pub mod cgroups;
pub mod host;
pub mod launches;
pub mod memory;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What follows `--` on the command line: options that each take a value.
pub struct Options {
    pub rounds: usize,
    values: BTreeMap<String, String>,
}

impl Options {
    /// `--rounds`, and those that are known besides.
    pub fn read(rounds: usize, known: &[&str]) -> Result<Self> {
        let mut options = Self { rounds, values: BTreeMap::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--bench" => {}
                "--rounds" => options.rounds = value()?.parse()?,
                name if known.contains(&name) => drop(options.values.insert(name.to_owned(), value()?)),
                other => {
                    let all: Vec<_> = ["--rounds"].iter().chain(known).copied().collect();
                    return Err(format!("unknown option {other}; there are {}", all.join(", ")).into());
                }
            }
        }
        Ok(options)
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn number(&self, name: &str, otherwise: usize) -> Result<usize> {
        self.value(name).map_or(Ok(otherwise), |value| Ok(value.parse()?))
    }
}

/// The value below which this part of all is; NaN of none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = (values.len().saturating_sub(1) as f64 * q).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Times of one kind of launch, in microseconds.
pub struct Row {
    pub name: String,
    pub times: Vec<f64>,
}

impl Row {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), times: vec![] }
    }

    pub fn push(&mut self, time: Duration) {
        self.times.push(time.as_secs_f64() * 1e6);
    }

    pub fn median(&self) -> f64 {
        median(&self.times)
    }

    pub fn quantile(&self, q: f64) -> f64 {
        quantile(&self.times, q)
    }

    /// Median, least, and 99th percentile, as all benches of launches write them.
    pub fn record(&self) -> Record {
        Record::new(&self.name).number("median_us", self.median(), 1).number("min_us", self.quantile(0.0), 1).number(
            "p99_us",
            self.quantile(0.99),
            1,
        )
    }
}

/// Numbers that only look random: the same in each run.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(number).unwrap_or(0) % bound.max(1)
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

/// The ratio of two medians, with the 95 % confidence interval of a paired bootstrap: rounds are drawn, and in each both
/// times count.
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    pub fn of(above: &[f64], below: &[f64]) -> Self {
        const DRAWS: usize = 1000;
        let rounds = above.len().min(below.len());
        let mut dice = Dice::new();
        let (mut drawn_above, mut drawn_below) = (vec![], vec![]);
        let mut ratios = Vec::with_capacity(DRAWS);
        for _ in 0..DRAWS {
            drawn_above.clear();
            drawn_below.clear();
            for _ in 0..rounds {
                let round = dice.below(rounds);
                drawn_above.extend(above.get(round));
                drawn_below.extend(below.get(round));
            }
            ratios.push(median(&drawn_above) / median(&drawn_below));
        }
        let value = median(above) / median(below);
        Self { value, low: quantile(&ratios, 0.025), high: quantile(&ratios, 0.975) }
    }
}

/// One object of a bench's JSON, all of whose values are texts or numbers.
#[derive(Clone, Default)]
pub struct Record(Vec<(String, Value)>);

#[derive(Clone)]
enum Value {
    Text(String),
    /// With so many decimals.
    Number(f64, usize),
}

impl Record {
    pub fn new(name: &str) -> Self {
        Self::default().text("name", name)
    }

    pub fn text(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.push((key.to_owned(), Value::Text(value.into())));
        self
    }

    /// JSON has no word for what could not be had: it is left out.
    pub fn number(mut self, key: &str, value: f64, decimals: usize) -> Self {
        if value.is_finite() {
            self.0.push((key.to_owned(), Value::Number(value, decimals)));
        }
        self
    }

    pub fn get_text(&self, key: &str) -> &str {
        match self.0.iter().find(|(name, _)| name == key) {
            Some((_, Value::Text(text))) => text,
            _ => "",
        }
    }

    pub fn get(&self, key: &str) -> Option<f64> {
        match self.0.iter().find(|(name, _)| name == key)? {
            (_, Value::Number(number, _)) => Some(*number),
            _ => None,
        }
    }

    fn write(&self) -> String {
        let mut out = String::from("  {");
        for (key, value) in &self.0 {
            let comma = if out.ends_with('{') { "" } else { ", " };
            // A String takes all that is written to it.
            let _ = match value {
                Value::Text(text) => write!(out, "{comma}\"{key}\": \"{}\"", escaped(text)),
                Value::Number(number, decimals) => write!(out, "{comma}\"{key}\": {number:.decimals$}"),
            };
        }
        out + "}"
    }

    /// What [`write`](Self::write) wrote.
    fn read(line: &str) -> Option<Self> {
        let mut rest = line.trim().strip_prefix('{')?;
        let mut record = Self::default();
        loop {
            let key;
            (key, rest) = quoted(rest.trim_start())?;
            rest = rest.trim_start().strip_prefix(':')?.trim_start();
            if rest.starts_with('"') {
                let text;
                (text, rest) = quoted(rest)?;
                record.0.push((key, Value::Text(text)));
            } else {
                let end = rest.find([',', '}'])?;
                let (number, after) = rest.split_at(end);
                let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.trim_end().len());
                record.0.push((key, Value::Number(number.trim().parse().ok()?, decimals)));
                rest = after;
            }
            match rest.trim_start().strip_prefix(',') {
                Some(after) => rest = after,
                None => return rest.trim_start().starts_with('}').then_some(record),
            }
        }
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

/// A text in quotation marks, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut characters = text.strip_prefix('"')?.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((out, text.get(index + 2..)?)),
            '\\' => out.push(characters.next()?.1),
            character => out.push(character),
        }
    }
    None
}

/// An array of them, one on each line.
pub fn to_json(records: &[Record]) -> String {
    let lines: Vec<_> = records.iter().map(Record::write).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// What [`to_json`] wrote.
pub fn from_json(text: &str) -> Result<Vec<Record>> {
    let lines =
        text.lines().map(|line| line.trim().trim_end_matches(',')).filter(|line| !matches!(*line, "" | "[" | "]"));
    lines.map(|line| Record::read(line).ok_or_else(|| format!("not of this bench's making: {line}").into())).collect()
}
