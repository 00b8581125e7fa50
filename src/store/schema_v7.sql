-- Which window is to be judged next is asked after every step: without this the answer costs a look at every part of
-- every window of the lineage, judged or not.
CREATE INDEX partials_unjudged ON partials (lineage, window_start, window_end) WHERE counts IS NOT NULL;
