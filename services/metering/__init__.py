"""What requests used and cost: a record of each, sums of them, and the prices that they are reckoned by."""
