from eda.handling._credit cimport Credit
from eda.handling._gate cimport Gate
from eda.handling._intake cimport Intake
from eda.handling._ledger cimport Ledger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease
from eda.handling._outcome cimport Outcomes
from eda.handling._waiting cimport WaitingWorkers


# The parts, each below those that use it.
cdef class Dispatcher:
    cdef readonly Ledger ledger
    cdef OrderedLedger ordered      # the ledger, or None: shared
    cdef WaitingWorkers waiting
    cdef readonly Credit credit
    cdef readonly Lease lease
    cdef readonly Gate gate
    cdef readonly Outcomes outcomes
    cdef readonly Intake intake
    cdef list workers               # by index
    cdef object __weakref__
