//! burn's Adam and RMSprop, stepping a module of one-dimensional parameters.
//!
//! burn's optimizer takes a module and gives one back, so there is nothing to call but its `step`. The gradients are
//! handles, cloned anew for each step, because a step consumes them.

use std::io::{BufRead, Write};
use std::time::Instant;

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer, RmsPropConfig};
use burn::tensor::{Device, DeviceKind, Tensor, TensorData};

#[derive(Module, Debug)]
struct Net {
    params: Vec<Param<Tensor<1>>>,
}

struct Peer {
    net: Option<Net>,
    grads: Vec<Tensor<1>>,
    optimizer: ModuleOptimizer,
    lr: f64,
}

impl Peer {
    fn step(&mut self) {
        let Some(net) = self.net.take() else { return };
        let mut grads = GradientsParams::new();
        for (param, grad) in net.params.iter().zip(&self.grads) {
            grads.register(param.id, grad.clone());
        }
        self.net = Some(self.optimizer.step(self.lr, net, grads));
    }
}

fn fail(code: i32, why: impl std::fmt::Display) -> ! {
    eprintln!("{why}");
    std::process::exit(code)
}

fn main() {
    let (mut rule, mut lengths, mut variant) = (String::new(), String::new(), String::from("flex"));
    let (mut threads, mut check) = (String::from("2"), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let place = match &*arg {
            "--check" => {
                check = true;
                continue;
            }
            "--rule" => &mut rule,
            "--lengths" => &mut lengths,
            "--variant" => &mut variant,
            "--threads" => &mut threads,
            _ => fail(2, format!("unknown option {arg}")),
        };
        *place = args.next().unwrap_or_else(|| fail(2, format!("{arg} lacks its value")));
    }
    // Its thread pools read this when first used.
    std::env::set_var("RAYON_NUM_THREADS", &threads);

    let on_cpu = format!("CPU, {threads} thread{}", if threads == "1" { "" } else { "s" });
    #[allow(deprecated)] // ndarray is on its way out of burn; it is what many still run
    let (device, described) = match &*variant {
        "flex" => (Device::flex(), on_cpu),
        "ndarray" => (Device::ndarray(), on_cpu),
        "wgpu" => {
            let device = Device::wgpu(DeviceKind::DefaultDevice);
            let name = device.identity().map_or("GPU".into(), |identity| identity.name);
            (device, name)
        }
        _ => fail(2, format!("no variant {variant}")),
    };
    // burn's defaults differ from PyTorch's in eps, and in RMSprop's momentum.
    let (optimizer, lr) = match &*rule {
        "adam" => (AdamConfig::new().with_epsilon(1e-8).init(), 1e-3),
        "rmsprop" => (RmsPropConfig::new().with_epsilon(1e-8).with_momentum(0.0).init(), 1e-2),
        _ => fail(3, format!("no rule {rule}")),
    };
    let lengths: Vec<usize> = std::fs::read_to_string(&lengths)
        .unwrap_or_else(|error| fail(2, error))
        .split_whitespace()
        .map(|line| line.parse().unwrap_or_else(|error| fail(2, error)))
        .collect();

    // Parameters are where a training run has them, on the device that records; gradients are what it hands out.
    let training = device.clone().autodiff();
    let (mut params, mut grads) = (Vec::new(), Vec::new());
    for (t, &len) in lengths.iter().enumerate() {
        let p: Vec<f32> = (0..len).map(|i| (0.01 * (((i + 31 * t) % 97) as f64 - 48.0)) as f32).collect();
        let g: Vec<f32> = (0..len).map(|i| (0.001 * (((i + 17 * t) % 89) as f64 - 44.5)) as f32).collect();
        params.push(Param::from_tensor(Tensor::from_data(TensorData::new(p, [len]), &training)));
        grads.push(Tensor::from_data(TensorData::new(g, [len]), &device));
    }
    let mut peer = Peer { net: Some(Net { params }), grads, optimizer, lr };
    let sync = || device.sync().unwrap_or_else(|error| fail(1, format!("{error:?}")));

    if check {
        (0..3).for_each(|_| peer.step());
        let rows: Vec<String> = peer
            .net
            .iter()
            .flat_map(|net| &net.params)
            .map(|param| {
                let data = param.val().into_data();
                let values = data.as_slice::<f32>().unwrap_or_else(|error| fail(1, format!("{error:?}")));
                let len = values.len();
                format!("[{:?}, {:?}, {:?}]", values[0], values[len / 2], values[len - 1])
            })
            .collect();
        println!("[{}]", rows.join(", "));
        return;
    }

    (0..2).for_each(|_| peer.step());
    sync();
    // A step that failed on the device is only told of when something is read back: it panics, or nothing has moved.
    for param in peer.net.iter().flat_map(|net| &net.params) {
        let first = param.val().inner().slice([0..1]).into_data();
        let moved = first.as_slice::<f32>().is_ok_and(|first| first[0] != -0.48 && first[0].is_finite());
        if !moved {
            fail(1, "the warm-up steps moved nothing");
        }
    }
    let mut out = std::io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").and_then(|()| out.flush()).unwrap_or_else(|e| fail(1, e));
    let version = "0.22.1"; // as Cargo.toml pins it
    say(format!(r#"{{"name": "burn-{variant}", "version": "{version}", "device": {described:?}}}"#));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let steps: u64 = line.trim().parse().unwrap_or_else(|error| fail(2, error));
        sync();
        let began = Instant::now();
        for _ in 0..steps {
            peer.step();
            // Else fusion runs several steps as one kernel, which a training loop with work between them cannot have.
            sync();
        }
        say(format!("{:.9}", began.elapsed().as_secs_f64()));
    }
}
