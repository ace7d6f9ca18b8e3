"""How rows of 40 numbers can lie in memory: what a kernel that takes rows must take, or copy."""

LAYOUTS = {
    "a slice of wider rows": lambda normal: normal(6, 60)[:, 10:50],
    "every third number": lambda normal: normal(6, 120)[:, ::3],
    "transposed": lambda normal: normal(40, 6).T,
    "three axes, swapped": lambda normal: normal(3, 2, 40).transpose(0, 1),
    "one row, repeated": lambda normal: normal(1, 40).expand(6, 40),
}
