//! ONNX files, bundles and libraries that mean harm or are broken are refused in words before ONNX
//! Runtime sees anything.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use recsae::bundle::build::{BuildRequest, build};
use recsae::bundle::onnx::{self, OnnxError};
use recsae::encode;
use recsae::sae::weights::Selection;

const D_IN: i64 = 4;
const D_SAE: i64 = 8;

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

fn attribute(name: &str, type_: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.into(), type_: type_.into(), ..AttributeProto::default() };
    set(&mut attribute);
    attribute
}

fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let n: i64 = dims.iter().product();
    let raw_data = (0..n).flat_map(|i| (((i * 37) % 11) as f32 - 4.0).to_le_bytes()).collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, raw_data, ..TensorProto::default() }
}

fn value(name: &str, element: i32, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = |size: &Option<i64>| {
        let mut dim = Dimension::new();
        match size {
            Some(size) => dim.set_dim_value(*size),
            None => dim.set_dim_param("n".into()),
        }
        dim
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect(), ..TensorShapeProto::default() };
    let mut type_ = TypeProto::new();
    type_.set_tensor_type(type_proto::Tensor { elem_type: element, shape: Some(shape).into(), ..type_proto::Tensor::default() });
    ValueInfoProto { name: name.into(), type_: Some(type_).into(), ..ValueInfoProto::default() }
}

/// A small TopK encoder as an exporter writes it: MatMul, Add, Relu, TopK.
fn model() -> ModelProto {
    let k = TensorProto { name: "k".into(), dims: vec![1], data_type: 7, int64_data: vec![3], ..TensorProto::default() };
    let graph = GraphProto {
        name: "g".into(),
        node: vec![
            node("MatMul", &["x", "W"], &["product"]),
            node("Add", &["product", "b"], &["pre"]),
            node("Relu", &["pre"], &["dense"]),
            node("TopK", &["dense", "k"], &["values", "indices"]),
        ],
        initializer: vec![floats("W", &[D_IN, D_SAE]), floats("b", &[D_SAE]), k],
        input: vec![value("x", 1, &[None, Some(D_IN)])],
        output: vec![value("values", 1, &[None, Some(3)]), value("indices", 7, &[None, Some(3)])],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }],
        graph: Some(graph).into(),
        ..ModelProto::default()
    }
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn external(tensor: &mut TensorProto, entries: &[(&str, &str)]) {
    tensor.raw_data.clear();
    tensor.data_location = DataLocation::EXTERNAL.into();
    tensor.external_data = entries
        .iter()
        .map(|(key, value)| StringStringEntryProto { key: (*key).into(), value: (*value).into(), ..StringStringEntryProto::default() })
        .collect();
}

fn read(folder: &Path, bytes: &[u8], selection: Option<Selection>) -> Result<onnx::EncoderGraph, OnnxError> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    onnx::read(&path, selection)
}

/// Reads a changed model and expects a refusal of this kind whose words contain `says`.
#[track_caller]
fn refused(kind: &str, says: &str, change: impl FnOnce(&mut ModelProto, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let mut model = model();
    change(&mut model, folder.path());
    let error = read(folder.path(), &model.write_to_bytes().unwrap(), None).unwrap_err();
    println!("{kind}: {error}");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn the_unchanged_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let read = read(folder.path(), &model().write_to_bytes().unwrap(), None).unwrap();
    assert_eq!((read.spec.d_in.get(), read.spec.d_sae.get()), (4, 8));
    assert!(read.weights.is_some(), "{:?}", read.notes);
}

#[test]
fn weights_that_are_nan_are_refused() {
    refused("malformed", "\"W\" holds NaN, first at value 5", |model, _| {
        graph(model).initializer[0].raw_data[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
    });
}

#[test]
fn weights_that_are_infinite_are_refused() {
    for infinite in [f32::INFINITY, f32::NEG_INFINITY] {
        let says = format!("\"W\" holds {infinite}, first at value 5");
        refused("malformed", &says, |model, _| {
            graph(model).initializer[0].raw_data[20..24].copy_from_slice(&infinite.to_le_bytes());
        });
    }
}

/// A latent that is switched off by its bias is an SAE one can have; one that is always infinite is found in what it gives.
#[test]
fn an_infinite_bias_is_judged_by_what_the_graph_gives() {
    let Some(library) = crate::support::onnxruntime() else { return };
    let built = |bias: f32| {
        let folder = tempfile::tempdir().unwrap();
        let (onnx, mut model) = (folder.path().join("sae.onnx"), model());
        graph(&mut model).initializer[1].raw_data[8..12].copy_from_slice(&bias.to_le_bytes());
        std::fs::write(&onnx, model.write_to_bytes().unwrap()).unwrap();
        let request = BuildRequest { onnx, out: folder.path().join("bundle"), ..BuildRequest::default() };
        build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, Some(&library))).map(drop)
    };
    built(f32::NEG_INFINITY).unwrap();
    let error = built(f32::INFINITY).unwrap_err().to_string();
    assert!(error.contains("latent 2 of row 0 is not finite"), "{error}");
}

/// To open a pipe waits for somebody who writes into it: the command hung for ever.
#[test]
fn what_is_no_regular_file_is_refused_before_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.onnx");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, found) in [(pipe.as_path(), "a pipe"), (Path::new("/dev/zero"), "a device"), (folder.path(), "a folder")] {
        let error = onnx::read(path, None).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains(&format!("expected a regular file, found {found}"))), ("io", true), "{error}");
    }
}

#[test]
fn dimensions_beyond_the_cap_are_refused() {
    refused("too_large", "values in tensor", |model, _| graph(model).initializer[0].dims = vec![1_000_000_000_000]);
    refused("too_large", "values in tensor", |model, _| graph(model).initializer[0].dims = vec![i64::MAX, i64::MAX, i64::MAX]);
    refused("too_large", "values in tensor", |model, _| graph(model).input[0] = value("x", 1, &[Some(1_000_000), Some(1_000_000)]));
    refused("malformed", "negative dimension", |model, _| graph(model).initializer[0].dims = vec![-4, 8]);
    refused("malformed", "holds 128 bytes", |model, _| graph(model).initializer[0].dims = vec![400, 8]);
    refused("not_an_encoder", "ConstantOfShape", |model, _| {
        // The shape is small, what it makes is not: 10^12 values once it runs.
        let shape =
            TensorProto { name: "s".into(), dims: vec![2], data_type: 7, int64_data: vec![1_000_000, 1_000_000], ..TensorProto::default() };
        graph(model).initializer.push(shape);
        graph(model).node.insert(0, node("ConstantOfShape", &["s"], &["huge"]));
        graph(model).node[1].input[1] = "huge".into();
    });
}

#[test]
fn external_data_outside_the_folder_or_the_file_is_refused() {
    let with = |location: &'static str, offset: &'static str, says: &str| {
        refused("external_data", says, move |model, folder| {
            std::fs::write(folder.join("weights.bin"), vec![0u8; 128]).unwrap();
            external(&mut graph(model).initializer[0], &[("location", location), ("offset", offset)]);
        });
    };
    with("../../../../../../etc/passwd", "0", "leaves the model's folder");
    with("sub/../../weights.bin", "0", "cannot be opened");
    with("/etc/passwd", "0", "absolute path");
    with("C:\\windows\\win.ini", "0", "expected the name of a file");
    with("", "0", "expected the name of a file");
    with("absent.bin", "0", "cannot be opened");
    with(".", "0", "not a regular file");
    with("weights.bin", "1", "beyond the end");
    with("weights.bin", "18446744073709551615", "beyond the end");
    with("weights.bin", "-1", "not a number of bytes");
    refused("external_data", "symbolic link", |model, folder| {
        symlink("/etc/passwd", folder.join("weights.bin")).unwrap();
        external(&mut graph(model).initializer[0], &[("location", "weights.bin")]);
    });
    refused("external_data", "symbolic link", |model, folder| {
        symlink("/etc", folder.join("sub")).unwrap();
        external(&mut graph(model).initializer[0], &[("location", "sub/passwd")]);
    });
    refused("external_data", "shape asks for 128", |model, folder| {
        std::fs::write(folder.join("weights.bin"), vec![0u8; 128]).unwrap();
        external(&mut graph(model).initializer[0], &[("location", "weights.bin"), ("length", "64")]);
    });
    refused("external_data", "absolute path", |model, _| {
        // Also in the attribute of a node, where a Constant keeps its tensor.
        let mut tensor = floats("W", &[D_IN, D_SAE]);
        external(&mut tensor, &[("location", "/etc/passwd")]);
        let mut constant = node("Constant", &[], &["C"]);
        constant.attribute.push(attribute("value", AttributeType::TENSOR, |a| a.t = Some(tensor).into()));
        graph(model).node.insert(0, constant);
        graph(model).node[1].input[1] = "C".into();
    });
}

#[test]
fn external_data_inside_the_folder_is_taken_into_the_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let mut changed = model();
    let bytes = graph(&mut changed).initializer[0].raw_data.clone();
    std::fs::write(folder.path().join("weights.bin"), [vec![0u8; 64], bytes].concat()).unwrap();
    external(&mut graph(&mut changed).initializer[0], &[("location", "weights.bin"), ("offset", "64"), ("length", "128")]);
    let moved = read(folder.path(), &changed.write_to_bytes().unwrap(), None).unwrap();
    let whole = read(folder.path(), &model().write_to_bytes().unwrap(), None).unwrap();
    assert_eq!(moved.model, whole.model);
    assert!(!moved.model.windows(11).any(|window| window == b"weights.bin"));
}

#[test]
fn operators_off_the_list_are_refused_wherever_they_stand() {
    let custom = || NodeProto { domain: "com.evil".into(), ..node("Relu", &["pre"], &["dense"]) };
    refused("operator", "com.evil::Relu in the graph", |model, _| graph(model).node[2] = custom());
    refused("operator", "Loop in the graph", |model, _| graph(model).node[2].op_type = "Loop".into());
    refused("operator", "com.evil::Relu in a subgraph of If", |model, _| {
        let body = GraphProto { node: vec![custom()], ..GraphProto::default() };
        let mut branch = node("If", &["pre"], &["dense"]);
        branch.attribute.push(attribute("then_branch", AttributeType::GRAPH, |a| a.g = Some(body).into()));
        graph(model).node[2] = branch;
    });
    refused("operator", "subgraph", |model, _| {
        let body = GraphProto { node: vec![node("Relu", &["a"], &["b"])], ..GraphProto::default() };
        graph(model).node[2].attribute.push(attribute("hidden", AttributeType::GRAPHS, |a| a.graphs.push(body)));
    });
    refused("operator", "model-local function \"F\"", |model, _| {
        model.functions.push(FunctionProto { name: "F".into(), domain: "local".into(), node: vec![custom()], ..FunctionProto::default() });
    });
    refused("function", "inlined", |model, _| {
        // A function of a standard name would redefine the operator.
        model.functions.push(FunctionProto { name: "Relu".into(), node: vec![node("Abs", &["a"], &["b"])], ..FunctionProto::default() });
    });
    refused("malformed", "sparse", |model, _| graph(model).sparse_initializer.push(SparseTensorProto::default()));
}

#[test]
fn graphs_that_mix_rows_or_change_what_was_selected_are_refused() {
    refused("not_an_encoder", "Reshape", |model, _| {
        // BatchTopK: one selection over all rows.
        let all = TensorProto { name: "all".into(), dims: vec![1], data_type: 7, int64_data: vec![-1], ..TensorProto::default() };
        graph(model).initializer.push(all);
        graph(model).node.insert(3, node("Reshape", &["dense", "all"], &["flat"]));
        graph(model).node[4].input[0] = "flat".into();
    });
    refused("not_an_encoder", "known to treat every row alike", |model, _| {
        graph(model).node[3].attribute.push(attribute("axis", AttributeType::INT, |a| a.i = 0));
        graph(model).node.insert(3, node("ReduceMax", &["dense"], &["most"]));
        graph(model).node[4].input[0] = "most".into();
    });
    refused("not_an_encoder", "BatchTopK", |model, _| {
        graph(model).node[3].attribute.push(attribute("axis", AttributeType::INT, |a| a.i = 0));
    });
    refused("not_an_encoder", "of the smallest", |model, _| {
        graph(model).node[3].attribute.push(attribute("largest", AttributeType::INT, |a| a.i = 0));
    });
    refused("not_an_encoder", "Mul on the selected values", |model, _| {
        graph(model).initializer.push(floats("scale", &[1]));
        graph(model).node.push(node("Mul", &["values", "scale"], &["scaled"]));
        graph(model).output[0].name = "scaled".into();
    });
    refused("not_an_encoder", "fixes the batch size", |model, _| graph(model).initializer[1] = floats("b", &[4, D_SAE]));
    refused("not_an_encoder", "2 inputs", |model, _| graph(model).input.push(value("y", 1, &[None, Some(4)])));
    refused("malformed", "before anything produces it", |model, _| graph(model).node.swap(0, 2));
    refused("malformed", "produced twice", |model, _| graph(model).node.insert(1, node("MatMul", &["x", "W"], &["product"])));
}

#[test]
fn a_selection_is_never_guessed_and_never_overruled() {
    let folder = tempfile::tempdir().unwrap();
    let k = |k: usize| Some(Selection::TopK(k.try_into().unwrap()));
    let error = read(folder.path(), &model().write_to_bytes().unwrap(), k(2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the graph selects k = 3, the command line says k = 2; leave it out, or export the graph with the selection meant"
    );
    let mut dense = model();
    graph(&mut dense).node.pop();
    graph(&mut dense).output = vec![value("dense", 1, &[None, Some(D_SAE)])];
    let bytes = dense.write_to_bytes().unwrap();
    assert_eq!(read(folder.path(), &bytes, None).unwrap_err(), OnnxError::NoSelection { d_sae: 8 });
    assert_eq!(read(folder.path(), &bytes, k(2)).unwrap().spec.selection, k(2).unwrap());
    assert_eq!(read(folder.path(), &bytes, k(9)).unwrap_err().kind(), "not_an_encoder");
}

#[test]
fn truncated_and_random_files_are_refused_and_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = model().write_to_bytes().unwrap();
    for length in 0..bytes.len() {
        assert!(read(folder.path(), &bytes[..length], None).is_err(), "{length} of {} bytes", bytes.len());
    }
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(seed);
    for _ in 0..3000 {
        let mut changed = bytes.clone();
        for _ in 0..rand::Rng::random_range(&mut rng, 1..6) {
            let place = rand::Rng::random_range(&mut rng, 0..changed.len());
            changed[place] = rand::Rng::random(&mut rng);
        }
        // A flipped weight is still a model; whatever is not must come back as an error.
        read(folder.path(), &changed, None).map(|graph| graph.spec).ok();
        let random: Vec<u8> = (0..200).map(|_| rand::Rng::random(&mut rng)).collect();
        assert!(read(folder.path(), &random, None).is_err());
    }
}

#[test]
fn a_long_chain_of_nodes_does_not_overflow_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let mut long = model();
    let names: Vec<String> = (0..9_000).map(|i| format!("r{i}")).collect();
    let chain = names.windows(2).map(|pair| node("Relu", &[&pair[0]], &[&pair[1]]));
    let chain: Vec<_> = std::iter::once(node("Relu", &["dense"], &["r0"])).chain(chain).collect();
    graph(&mut long).node.splice(3..3, chain);
    graph(&mut long).node.last_mut().unwrap().input[0] = "r8999".into();
    assert!(read(folder.path(), &long.write_to_bytes().unwrap(), None).is_ok());
    refused("too_large", "nodes in the graph", |model, _| graph(model).node = vec![node("Relu", &["x"], &["y"]); 10_001]);
}

#[test]
fn a_file_of_many_gigabytes_is_refused_by_its_size_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("big.onnx");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(onnx::read(&path, None).unwrap_err().kind(), "too_large");
    assert_eq!(onnx::read(folder.path(), None).unwrap_err().kind(), "io");
    assert_eq!(onnx::read(&folder.path().join("absent"), None).unwrap_err().kind(), "io");
}
