"""Routes to a smaller network, where its code holds sizes.

In flow a network whose tensors are to be sliced. The first route is the user's own module with the
numbers that it keeps of its sizes changed (`attributes`); the second its exported program as a
module (`program`), its sizes derived anew from what is left (`constants`), its layers modules again
(`layers`). Which comes out is the first that the proof accepts: `surgery.py` tries them.
"""
