"""This machine and its operating system: the only room that asks them.

`system`     cores, load, memory and idle times, told of or `Unmeasured`
`processor`  what instruction sets mean for files, in words
`threads`    how many threads the work in this process takes
`children`   processes that end with the one that started them
`interrupt`  interrupts that are remembered, and held back
`vigil`      a process beside a command, which tells of standstills; the standard library alone
"""
