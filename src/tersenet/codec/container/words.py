"""What packed manifests are deflated against: the words that manifests of networks are made of.

The words are part of the format, byte for byte: a file does not hold them, so another text here
would be read as another manifest. What it lacks is written in full, so that a method of another
name costs its letters and no more. The commonest words stand last, where a reference to them is
shortest.

They are worth their place: of the manifests of `recipes/encode-lenet5.yaml` and of
`encode-vgg-small.yaml` they spare 517 bytes, 4.3 % of a coded file of 12 kB and 0.9 % of 55 kB.
"""

from typing import Final

__all__ = ["WORDS"]

_QUANTISE: Final = (
    '"family":"quantize","name":"static","name":"auto","settings":{"agreement":0.98,'
    '"speedup":1.0,"iterations":30,"seconds":0.5,"by_layer":true},"name":"aware","settings":{'
    '"weight_bits":4,"activation_bits":8,"edge_bits":8,"weights":"lsq","activations":"lsq",'
    '"epochs":2.0,"learning_rate":0.01,"weights_after":0.0,"freeze":0.8,"weight":0.5,'
    '"hard_weight":0.5,"temperature":4.0,"weight_decay":0.0005,"overrides":{},"skip":[]},'
    '"after":"trained at 4 bits, reads 8 bits","data":{"shape":[64,64,3,3],"weight":4,'
    '"activation":8,"low":-7,"high":7,"signs":false}},"name":"half","settings":{"dtype":"fp16",'
    '"skip":[]},"after":"bf16","data":{"shape":[]},"name":"mixed","settings":{"average_bits":null,'
    '"weight_bytes":null,"speedup":null,"choices":[2,3,4,6,8],"counted":"packed","measure":"kl",'
    '"samples":256,"probes":8,"seed":0,"bits":{},"then":{"static":{"name":"weights","settings":{'
    '"bits":8,"mode":"restricted","per":"channel","group":32,"weight_range":"mse",'
    '"activation_bits":8,"activation_mode":"asymmetric","range":"min-max","percentile":99.99,'
    '"reduce_range":"auto","equalise":false,"balance":null,"rounding":"nearest","steps":400,'
    '"drop":0.5,"bias_correction":"none","samples":512,"statistics":null,"overrides":[],'
    '"diagnose":false,"only":[],"skip":[]},"edits":[{"site":"linear","kind":"encode",'
    '"before":"fp32","after":"int8, restricted, per channel","data":{"shape":[16,16,3,3],'
    '"bits":8,"mode":"restricted","per":"channel","group":32,"values":{"relu_1":[8,false],'
    '"add_1":[8,true]},"equalised":false}},'
)
_FACTOR: Final = (
    '"family":"replace","name":"bottleneck","name":"depthwise-separable","multiplier":1,'
    '"name":"shuffle","groups":2,"width":1.0,"name":"ghost","settings":{"only":[],"skip":[],'
    '"least_channels":8,"least_speedup":1.0,"largest":null,"batch":1,"split":2,"cheap":3},'
    '"family":"decompose","name":"cp","layers":3,"iterations":60,"stable":true,"name":"svd",'
    '"split":"channel","weighting":"plain","samples":128,"name":"tensor-train","cores":3,'
    '"least":4096,"name":"tucker","settings":{"ranks":{"rate":{"times":2.0}},"only":[],"skip":[],'
    '"refit":true,"batches":8,"spatial":"full","iterations":5},"edits":[{"site":"features.0",'
    '"kind":"swap","before":"Conv2d 64×64×3×3","after":"svd, ranks 16×16",'
    '"data":{"form":"svd","ranks":[16,16]}},{"before":"Linear 10×512","family":"repair",'
    '"name":"batch-norm","settings":{"batches":100},"name":"least-squares","settings":{'
    '"batches":100,"positions":32,"ridge":0.001},"name":"shift","settings":{},'
)
_PRUNE: Final = (
    '"name":"layers","settings":{"remove":null,"kind":"drop","after":"identity",'
    '"data":{"block":"stage1.1"}},"name":"sss","settings":{"epochs":2.0,"strength":0.05,'
    '"name":"latency-aware","settings":{"latency":0.6,"batch":1,"criterion":{"taylor":{'
    '"worth":"loss","cost":"table","blocks":true,"attempts":6},"name":"slimming","epochs":2.0,'
    '"strength":0.001,"learning_rate":0.05,"weight_decay":0.0005,"name":"obd","probes":8,'
    '"seed":0,"name":"pca","variance":0.99,"name":"thinet","name":"lasso","positions":10,'
    '"name":"random","name":"hrank","rectified":true,"name":"activation","by":"mean",'
    '"name":"fpgm","name":"bn-scale","name":"taylor","of":"gates","squared":false,'
    '"scope":"layer","name":"l2","multiple_of":null,"kind":"swap","data":{"swap":"program",'
    '"swap":"number","attribute":"over_kept":["value":'
)
_CODE: Final = (
    '"family":"encode","name":"rd","settings":{"fisher":"layer","floor":0.5,"pooled":0.5,'
    '"name":"rate-aware","settings":{"lam":null,"file_bytes":null,"max_drop":0.3,"max_drop":null,'
    '"trials":8,"samples":512,"seed":0,"dependent":true,"damping":0.01,"labels":4},"samples":4096,'
)
_NETWORKS: Final = (
    '"resnet-bottleneck":{"blocks":9,"in_channels":"vgg-small":{"in_channels":1,"classes":10,'
    '"width":64}},"mobilenet-v2-small":{"width":0.5,"in_channels":3,"classes":1000}},'
    '"shufflenet-v2":"ghostnet":"lenet5-caffe":{"lenet5":{"pixels":28,"in_channels":1,'
    '"classes":10}},"example":[[2,1,28,28]],"resnet50":{"class":"__main__.Net"},'
    '{"format":"tersenet-model","version":1,"model":{"resnet":{"depth":20,"option":"B",'
    '"in_channels":3,"classes":10,"width":16}},"example":[[2,3,32,32]],"dtypes":["float32"],'
    '"steps":[{"family":"prune","name":"l1","settings":{"keep":0.5,"scope":"global","only":[],'
    '"skip":[],"multiple_of":"auto","least":1,"at_a_time":null,"counts":{}},"edits":[{"site":'
)
_EDITS: Final = (
    '"layer1.0.conv1.weight","stage1.0.conv2.weight","kind":"slice","features.0.weight",'
    '"stage2.0.shortcut.weight","bn1.running_mean","bn1.running_var","shape":[10,512],'
    '"shape":[64,64,3,3],"data":{"dim":0,"keep":}},{"site":"stage3.0.bn2.weight",'
    '"kind":"slice","shape":[16],"data":{"dim":1,"keep":}},{"site":"linear.weight",'
    '"kind":"slice","shape":[20,1,5,5],"data":{"dim":0,"keep":}}]},{"family":"prune","name":"fisher",'
    '"settings":{"keep":0.5,"scope":"global","only":[],"skip":[],"multiple_of":"auto","least":1,'
    '"at_a_time":null,"counts":{"conv1":16,"conv2":32},"batches":10,"mac_weight":0.0},"edits":['
    '{"site":"fc1.bias"},{"site":"conv1.weight","kind":"mask"},{"site":"conv1.bias"},'
    '{"site":"conv2.bias","kind":"slice"},{"site":"fc.weight","kind":"mask"},'
    '{"site":"conv2.weight","kind":"mask"}]},{"family":"distill","name":"response","settings":{'
    '"epochs":3.0,"learning_rate":0.05,"temperature":4.0,"weight":0.5,"hard_weight":0.5,'
    '"squared":true,"weight_decay":0.0005},"edits":[{"site":"*","kind":"tune"}]},{'
    '"family":"prune","name":"magnitude","settings":{"sparsity":0.9,"threshold":null,'
    '"deviations":null,"rates":{},"scope":"global","pattern":"element","of":"all","only":[],'
    '"skip":[]},"edits":[{"site":"conv1.weight","kind":"mask"},{"site":"*","kind":"tune"}]},{'
    '"family":"encode","name":"feedback","settings":{"lam":null,"file_bytes":20000,'
    '"max_drop":null,"trials":8,"samples":512,"seed":0,"dependent":true,"damping":0.01,'
    '"labels":4},"edits":[]}],"step":"encode feedback"}'
)

WORDS: Final = f"{_QUANTISE}{_FACTOR}{_PRUNE}{_CODE}{_NETWORKS}{_EDITS}".encode()
"""UTF-8. `docs/format.md` states its length and checksum."""
