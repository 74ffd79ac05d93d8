"""What an update is made of: stages, their makers and combinators."""

from dpolicy.learning._combinators import Term as Term
from dpolicy.learning._combinators import every as every
from dpolicy.learning._combinators import labelled_by_part as labelled_by_part
from dpolicy.learning._combinators import passes as passes
from dpolicy.learning._combinators import times as times
from dpolicy.learning._combinators import together as together
from dpolicy.learning._makers import Statistics as Statistics
from dpolicy.learning._makers import average as average
from dpolicy.learning._makers import frozen as frozen
from dpolicy.learning._makers import labelled as labelled
from dpolicy.learning._makers import labelled_batch as labelled_batch
from dpolicy.learning._makers import remembered as remembered
from dpolicy.learning._makers import reported as reported
from dpolicy.learning._makers import statistics as statistics
from dpolicy.learning._makers import trained as trained
from dpolicy.learning._makers import tuned as tuned
from dpolicy.learning._minibatches import in_segments as in_segments
from dpolicy.learning._minibatches import over_minibatches as over_minibatches
from dpolicy.learning._stages import Acting as Acting
from dpolicy.learning._stages import Parts as Parts
from dpolicy.learning._stages import Seen as Seen
from dpolicy.learning._stages import Stage as Stage
from dpolicy.learning._stages import Tuned as Tuned
from dpolicy.learning._stages import algorithm as algorithm
from dpolicy.learning._stages import run_stages as run_stages
from dpolicy.learning._stages import stage_key as stage_key
