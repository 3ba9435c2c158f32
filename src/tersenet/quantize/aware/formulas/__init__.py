"""What each paper computes, with its gradients: tensors in, tensors on a grid out, one file each.

`weights` and `activations` of the room above make modules of them, which hold what is learned.
"""
