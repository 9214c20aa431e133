"""A graph as a `.tflite` file, and back: the stored form of every shipped network.

Follows the TensorFlow Lite schema (version 3) and its quantization specification. A file
holds one subgraph of builtin operators, one or two for each operator of the graph; there is never
a TRANSPOSE or a RESHAPE. Equal graphs give equal bytes.

Left out: everything that other converters write and these networks do not need (other
operators, strides, dilation, per-tensor weights, several subgraphs, sparse tensors). Reading
such a file is refused, never approximated.
"""
