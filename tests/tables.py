"""Published tables that concern presets of several families, as they are printed."""


def table(text):
    """The rows below the heading, as words; widths as tuples."""
    value = lambda word: tuple(map(int, word.split(","))) if "," in word else word
    return [[value(word) for word in line.split()] for line in text.strip().splitlines()[1:]]


# Review, arXiv 2601.06133, tables 10 and 11.
REVIEW = """
task                              rate  hidden       gamma rollouts epochs batches kl   entropy value
Isaac-Cartpole-v0                 3e-4  32,32        .99   16       8      8       .008 0       2
Isaac-Ant-v0                      3e-4  256,128,64   .99   16       4      2       .008 0       1
Isaac-Humanoid-v0                 5e-4  400,200,100  .99   32       5      4       .01  0       2
Isaac-Lift-Cube-Franka-v0         1e-4  256,128,64   .99   24       8      4       .01  .001    2
Isaac-Open-Drawer-Franka-v0       5e-4  256,128,64   .99   96       5      96      .008 .001    2
Isaac-Repose-Cube-Allegro-v0      5e-4  512,256,128  .998  24       5      12      .016 .002    2
Isaac-Velocity-Flat-Anymal-D-v0   1e-3  128,128,128  .99   24       5      4       .01  .005    1
Isaac-Velocity-Flat-Spot-v0       1e-3  512,256,128  .99   24       5      4       .01  .0025   .5
Isaac-Velocity-Flat-Unitree-Go2-v0 1e-3 512,256,128  .99   24       5      4       .01  .01     1
Isaac-Velocity-Flat-G1-v0         1e-3  512,256,128  .99   24       5      4       .01  .008    1
Isaac-Velocity-Flat-H1-v0         1e-3  512,256,128  .995  24       5      4       .01  .01     1
Isaac-Velocity-Flat-Cassie-v0     1e-3  512,256,128  .99   24       5      4       .01  .01     1
"""
