//! candle's AdamW without decay, which is Adam. It has no RMSprop.
//!
//! Its elementwise operations run on one thread on the CPU, so `--threads` is taken and changes nothing.

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

fn fail(code: i32, why: impl std::fmt::Display) -> ! {
    eprintln!("{why}");
    std::process::exit(code)
}

fn main() -> Result<()> {
    let (mut rule, mut lengths, mut check) = (String::new(), String::new(), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut ignored = String::new();
        let place = match &*arg {
            "--check" => {
                check = true;
                continue;
            }
            "--rule" => &mut rule,
            "--lengths" => &mut lengths,
            "--variant" | "--threads" => &mut ignored,
            _ => fail(2, format!("unknown option {arg}")),
        };
        *place = args.next().unwrap_or_else(|| fail(2, format!("{arg} lacks its value")));
    }
    if rule != "adam" {
        fail(3, format!("candle has no {rule}"));
    }
    let lengths: Vec<usize> = std::fs::read_to_string(&lengths)?
        .split_whitespace()
        .map(|line| line.parse().unwrap_or_else(|error| fail(2, error)))
        .collect();
    let mut vars = Vec::new();
    // A store of gradients comes out of a backward pass only; this one's holds nothing of ours yet.
    let mut grads = Var::zeros(1, DType::F32, &Device::Cpu)?.sum_all()?.backward()?;
    for (t, &len) in lengths.iter().enumerate() {
        let p: Vec<f32> = (0..len).map(|i| (0.01 * (((i + 31 * t) % 97) as f64 - 48.0)) as f32).collect();
        let g: Vec<f32> = (0..len).map(|i| (0.001 * (((i + 17 * t) % 89) as f64 - 44.5)) as f32).collect();
        let var = Var::from_vec(p, len, &Device::Cpu)?;
        grads.insert(&var, Tensor::from_vec(g, len, &Device::Cpu)?);
        vars.push(var);
    }
    let settings = ParamsAdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut optimizer = AdamW::new(vars.clone(), settings)?;

    if check {
        for _ in 0..3 {
            optimizer.step(&grads)?;
        }
        let mut rows = Vec::new();
        for var in &vars {
            let values = var.to_vec1::<f32>()?;
            let len = values.len();
            rows.push(format!("[{:?}, {:?}, {:?}]", values[0], values[len / 2], values[len - 1]));
        }
        println!("[{}]", rows.join(", "));
        return Ok(());
    }

    for _ in 0..2 {
        optimizer.step(&grads)?;
    }
    let mut out = std::io::stdout();
    let version = "0.11.1"; // as Cargo.toml pins it
    writeln!(out, r#"{{"name": "candle", "version": "{version}", "device": "CPU, 1 thread"}}"#)?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let steps: u64 = line?.trim().parse().unwrap_or_else(|error| fail(2, error));
        let began = Instant::now();
        for _ in 0..steps {
            optimizer.step(&grads)?;
        }
        writeln!(out, "{:.9}", began.elapsed().as_secs_f64())?;
        out.flush()?;
    }
    Ok(())
}
