//! Every sequence that the real frameworks gave, under `tests/golden`.

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Map, Value as Json, json};
use wgpu_optim::schedule::{Base, Plateau, Schedule};

/// `f64` against `f64`: roundings only. PyTorch chains most of its values, step from step.
const LIMIT: f64 = 1e-12;
/// Keras's cosine was recorded through JAX, which rounds its decay factor to `f32`: half an ULP of 1, and what comes of
/// the cosine. `keras_cosine_warmup_f64` is the same from TensorFlow, without that.
const SINGLE: (&str, f64) = ("keras_cosine_warmup", 2e-7);

/// One sequence: how it was made, and what came of it.
struct Recorded {
    name: String,
    kind: String,
    args: Map<String, Json>,
    base_lr: f64,
    lr: Vec<f64>,
    /// beta1 or momentum, where it moved.
    momentum: Option<Vec<f64>>,
}

/// What a path answered.
struct Answered(Vec<f64>);

#[test]
fn every_sequence_is_its_frameworks() {
    let mut seen = 0;
    for recorded in sequences().iter().filter(|sequence| !sequence.is_plateau()) {
        let schedule = recorded.schedule();
        schedule.check().unwrap_or_else(|error| panic!("{}: {error}", recorded.name));
        let base = Base { lr: recorded.base_lr, momentum: Some(0.9) };
        // Asked from the last to the first: PyTorch went step by step, we need nothing but the number.
        let mut points: Vec<_> = (0..recorded.lr.len() as u64).rev().map(|step| schedule.at(step, base)).collect();
        points.reverse();
        let limit = if recorded.name == SINGLE.0 { SINGLE.1 } else { LIMIT };
        let worst = worst(&Answered(points.iter().map(|point| point.lr).collect()), &recorded.lr);
        assert!(worst <= limit, "{}: lr is off by {worst:e} of itself, allowed is {limit:e}", recorded.name);
        // What no scheduler moves stays where it was.
        let expected = recorded.momentum.clone().unwrap_or_else(|| vec![0.9; points.len()]);
        let answered = points.iter().map(|point| point.momentum.unwrap()).collect();
        let worst = self::worst(&Answered(answered), &expected);
        assert!(worst <= LIMIT, "{}: momentum is off by {worst:e} of itself", recorded.name);
        assert_eq!(schedule.cycles_momentum(), recorded.momentum.is_some(), "{}", recorded.name);
        seen += 1;
    }
    assert_eq!(seen, 74, "sequences of both files");
}

#[test]
fn every_kind_has_a_sequence() {
    let schedules: Vec<Schedule> =
        sequences().iter().filter(|sequence| !sequence.is_plateau()).map(Recorded::schedule).collect();
    for kind in wgpu_optim::schedule::Kind::NAMES {
        assert!(schedules.iter().any(|schedule| schedule.first.name() == *kind), "{kind}");
    }
}

#[test]
fn a_plateau_is_pytorchs() {
    let recorded: Vec<Recorded> = sequences().into_iter().filter(Recorded::is_plateau).collect();
    assert_eq!(recorded.len(), 4);
    let metric = metric();
    for sequence in recorded {
        let mut plateau: Plateau = serde_json::from_value(Json::Object(sequence.args.clone())).unwrap();
        plateau.check().unwrap();
        let mut lr = sequence.base_lr;
        let mut answered = Vec::new();
        for metric in &metric[..sequence.lr.len()] {
            answered.push(lr);
            // Saved and read again at each call: what it remembers is in its fields.
            plateau = serde_json::from_str(&serde_json::to_string(&plateau).unwrap()).unwrap();
            lr = plateau.step(*metric, lr);
        }
        let worst = worst(&Answered(answered), &sequence.lr);
        assert!(worst <= LIMIT, "{}: {worst:e}", sequence.name);
        assert!(sequence.lr.iter().any(|lr| *lr < sequence.base_lr), "{} never fell", sequence.name);
    }
}

#[test]
fn a_ten_billionth_is_noticed() {
    let expected = [0.01, 0.02, 0.0];
    assert!(worst(&Answered(expected.into()), &expected) <= LIMIT);
    assert!(worst(&Answered(vec![0.01, 0.02 * (1.0 + 1e-10), 0.0]), &expected) > LIMIT);
    assert!(worst(&Answered(vec![0.01, 0.02, 1e-30]), &expected) > LIMIT);
    assert!(worst(&Answered(vec![0.01, f64::NAN, 0.0]), &expected) > LIMIT);
    assert!(worst(&Answered(vec![0.01, 0.02]), &expected) > LIMIT);
    // An argument off by as much is noticed in the sequence itself.
    let recorded = sequences().into_iter().find(|sequence| sequence.name == "exponential").unwrap();
    let mut args = recorded.args.clone();
    args["gamma"] = (args["gamma"].as_f64().unwrap() * (1.0 + 1e-10)).into();
    let off = Recorded { args, ..recorded };
    let base = Base { lr: off.base_lr, momentum: None };
    let schedule = off.schedule();
    let answered = (0..off.lr.len() as u64).map(|step| schedule.at(step, base).lr).collect();
    assert!(worst(&Answered(answered), &off.lr) > LIMIT);
}

/// The largest difference, as a share of what was expected.
fn worst(Answered(answered): &Answered, expected: &[f64]) -> f64 {
    if answered.len() != expected.len() {
        return f64::INFINITY;
    }
    let share = |(a, b): (&f64, &f64)| {
        let share = if a == b { 0.0 } else { (a - b).abs() / b.abs() };
        if share.is_nan() { f64::INFINITY } else { share }
    };
    answered.iter().zip(expected).map(share).fold(0.0, f64::max)
}

impl Recorded {
    fn is_plateau(&self) -> bool {
        self.kind.ends_with("ReduceLROnPlateau")
    }

    fn schedule(&self) -> Schedule {
        serde_json::from_value(table(&self.kind, &self.args)).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// The framework's call as a table of ours: its arguments keep their names, in snake case.
fn table(kind: &str, args: &Map<String, Json>) -> Json {
    match kind {
        "torch.SequentialLR" => chain(args),
        "torch.Sequential" => json!({
            "kind": "linear", "start_factor": args["start_factor"], "total_iters": args["warmup"],
            "then": [{"at": args["warmup"], "kind": "cosine", "t_max": args["T_max"], "eta_min": args["eta_min"]}],
        }),
        _ => {
            let mut table: Map<String, Json> =
                args.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
            table.insert("kind".into(), name_of(kind).into());
            Json::Object(table)
        }
    }
}

fn chain(args: &Map<String, Json>) -> Json {
    let parts = args["schedulers"].as_array().unwrap();
    let mut tables = parts.iter().map(|part| table(part[0].as_str().unwrap(), part[1].as_object().unwrap()));
    let mut schedule = tables.next().unwrap();
    let milestones = args["milestones"].as_array().unwrap();
    let then = tables.zip(milestones).map(|(mut table, at)| {
        table["at"] = at.clone();
        table
    });
    schedule["then"] = then.collect();
    schedule
}

fn name_of(kind: &str) -> &'static str {
    match kind {
        "torch.ConstantLR" => "constant",
        "torch.LinearLR" => "linear",
        "torch.CosineAnnealingLR" => "cosine",
        "torch.CosineAnnealingWarmRestarts" => "cosine_warm_restarts",
        "torch.StepLR" => "step",
        "torch.MultiStepLR" => "multi_step",
        "torch.ExponentialLR" => "exponential",
        "torch.PolynomialLR" => "polynomial",
        "torch.OneCycleLR" => "one_cycle",
        "torch.CyclicLR" => "cyclic",
        "transformers.get_wsd_schedule" => "warmup_stable_decay",
        "keras.CosineDecay" => "keras_cosine_decay",
        "keras.ExponentialDecay" => "keras_exponential_decay",
        "keras.InverseTimeDecay" => "keras_inverse_time_decay",
        "optax.cosine_decay_schedule" => "optax_cosine_decay",
        "optax.exponential_decay" => "optax_exponential_decay",
        "optax.warmup_cosine_decay_schedule" => "optax_warmup_cosine_decay",
        "optax.cosine_onecycle_schedule" => "optax_cosine_onecycle",
        _ => panic!("{kind} is not a kind"),
    }
}

fn sequences() -> Vec<Recorded> {
    ["lr_sequences", "lr_variants"].into_iter().flat_map(sequences_of).collect()
}

fn sequences_of(file: &str) -> Vec<Recorded> {
    let bytes = read(file);
    let data = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let golden: Json = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["golden"]).unwrap();
    let sequence = |(name, made): (&String, &Json)| Recorded {
        name: name.clone(),
        kind: made["kind"].as_str().unwrap().into(),
        args: made["args"].as_object().unwrap().clone(),
        base_lr: made["base_lr"].as_f64().unwrap_or(f64::MAX), // of no account to what brings its own
        lr: numbers(&data, &format!("lr/{name}")).unwrap(),
        momentum: numbers(&data, &format!("beta1/{name}")).or_else(|| numbers(&data, &format!("momentum/{name}"))),
    };
    golden["sequences"].as_object().unwrap().iter().map(sequence).collect()
}

fn metric() -> Vec<f64> {
    let bytes = read("lr_sequences");
    numbers(&SafeTensors::deserialize(&bytes).unwrap(), "plateau_metric").unwrap()
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{file}.safetensors"))).unwrap()
}

fn numbers(data: &SafeTensors<'_>, name: &str) -> Option<Vec<f64>> {
    let (bytes, _) = data.tensor(name).ok()?.data().as_chunks::<8>();
    Some(bytes.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}
