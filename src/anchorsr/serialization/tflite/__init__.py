"""Reading and writing graphs as `.tflite` files, the format of all shipped networks.

Follows the TensorFlow Lite schema (version 3) and its quantization specification. A file has one
subgraph of builtin operators, one to three per operator of the graph, and never a TRANSPOSE or a
RESHAPE. Equal graphs give equal bytes.

Left out: what other converters write and these networks do not need (other operators, strides,
dilation, per-tensor weight scales, several subgraphs, sparse tensors). Such a file is refused,
never approximated.
"""
