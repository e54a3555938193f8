/* A queue of three and a current entity, made of numbers: see tests/support/fair.rs. */
struct world { struct cfs_rq cfs_rq; struct sched_entity se[3], curr; };

static struct load_weight load_of(u64 pick, u64 load)
{
	if (pick < 40)
		return (struct load_weight) { (unsigned long)sched_prio_to_weight[pick] << 10,
					      sched_prio_to_wmult[pick] };
	if (pick == 40)
		return (struct load_weight) { 3UL << 10, 1431655765 };
	return (struct load_weight) { load, 0 };
}

static struct sched_entity entity_of(const u64 *a)
{
	struct sched_entity se = { .load = load_of(a[0], a[1]), .vruntime = a[2],
				   .deadline = a[2] + a[3], .slice = a[4] };
	return se;
}

static void tree_add(struct rb_node **link, struct sched_entity *se)
{
	while (*link) {
		struct sched_entity *at = __node_2_se(*link);

		if ((s64)(se->vruntime - at->min_vruntime) < 0)
			at->min_vruntime = se->vruntime;
		link = entity_before(se, at) ? &at->run_node.rb_left : &at->run_node.rb_right;
	}
	se->min_vruntime = se->vruntime;
	*link = &se->run_node;
}

/* a[0]: zero; a[1] low bits: entities in the tree, current, its protection; then entities. */
static struct cfs_rq *world_of(struct world *w, const u64 *a)
{
	int i, n = a[1] & 3;

	memset(w, 0, sizeof(*w));
	w->cfs_rq.zero_vruntime = a[0];
	for (i = 0; i < n; i++) {
		w->se[i] = entity_of(a + 2 + 5 * i);
		avg_vruntime_add(&w->cfs_rq, &w->se[i]);
		tree_add(&w->cfs_rq.tasks_timeline.rb_root.rb_node, &w->se[i]);
		w->se[i].on_rq = 1;
	}
	w->cfs_rq.nr_running = n;
	if (a[1] & 4) {
		w->curr = entity_of(a + 17);
		w->curr.on_rq = 1;
		w->curr.vlag = w->curr.deadline + !(a[1] & 8);
		w->cfs_rq.curr = &w->curr;
		w->cfs_rq.nr_running++;
	}
	return &w->cfs_rq;
}

static u64 mix(u64 h, u64 v) { return (h ^ v) * 0x9e3779b97f4a7c15ULL + (h >> 29); }

static u64 case_calc_delta_fair(const u64 *a)
{
	struct sched_entity se = { .load = load_of(a[0], a[1]) };

	return calc_delta_fair(a[2], &se);
}

static u64 case_calc_delta(const u64 *a)
{
	struct load_weight lw = load_of(a[0], a[1]);

	return __calc_delta(a[2], a[3] << 10, &lw);
}

static u64 case_entity_lag(const u64 *a)
{
	struct sched_entity se = entity_of(a + 1);

	return entity_lag(a[0], &se);
}

static u64 case_avg_vruntime(const u64 *a)
{
	struct world w;
	struct cfs_rq *q = world_of(&w, a);
	u64 avg = avg_vruntime(q);

	return mix(mix(avg, q->avg_vruntime), q->avg_load);
}

static u64 case_eligible(const u64 *a)
{
	struct world w;

	return vruntime_eligible(world_of(&w, a), a[22]);
}

static u64 case_pick(const u64 *a)
{
	struct world w;
	struct sched_entity *se = pick_eevdf(world_of(&w, a));

	return !se ? 9 : se == &w.curr ? 8 : se - w.se;
}

static u64 case_update_deadline(const u64 *a)
{
	struct world w;
	struct cfs_rq *q = world_of(&w, a);
	bool new = update_deadline(q, &w.curr);

	return mix(mix(w.curr.deadline, w.curr.slice), new);
}

static u64 case_place(const u64 *a)
{
	struct world w;
	struct cfs_rq *q = world_of(&w, a);
	struct sched_entity se = entity_of(a + 22);

	se.vlag = a[27];
	se.custom_slice = a[28] & 1;
	se.rel_deadline = a[28] >> 1 & 1;
	place_entity(q, &se, a[28] & 4 ? ENQUEUE_INITIAL : 0);
	return mix(mix(se.vruntime, se.deadline), se.slice);
}

static u64 case_reweight(const u64 *a)
{
	struct sched_entity se = entity_of(a + 1);

	reweight_eevdf(&se, a[0], a[6]);
	return mix(se.vruntime, se.deadline);
}

/* One of the tree by @pick, or NULL: for half of all, and if the tree is empty. */
static struct sched_entity *one_of(struct world *w, const u64 *a, u64 pick)
{
	int n = a[1] & 3;

	return n && pick & 4 ? &w->se[(pick & 3) % n] : NULL;
}

static u64 case_overdue(const u64 *a)
{
	struct world w;

	return a[1] & 3 && cfs_rq_overdue(world_of(&w, a), a[22]);
}

static u64 case_pick_queued(const u64 *a)
{
	struct world w;
	struct sched_entity *se = pick_queued(world_of(&w, a), a[22]);

	return se ? se - w.se : 9;
}

/* a[22] to a[23]: the next buddy, why, a tick since, the current one lends. */
static struct cfs_rq *lent_world_of(struct world *w, const u64 *a)
{
	struct cfs_rq *q = world_of(w, a);

	q->next = one_of(w, a, a[22]);
	q->next_by = a[23] % 3;
	q->lent_at = jiffies - (a[23] >> 2 & 1);
	q->lent = 1;
	w->curr.lends = a[23] >> 3 & 1;
	return the_queue = q;
}

static u64 case_next_may_run(const u64 *a)
{
	struct world w;
	struct cfs_rq *q = lent_world_of(&w, a);

	return q->next ? next_may_run(q) : 9;
}

static u64 case_pass_turn(const u64 *a)
{
	struct world w;
	struct cfs_rq *q = lent_world_of(&w, a);

	return pass_turn(NULL, q, &w.curr) ? q->next - w.se : 9;
}

/* The first one of the tree wakes up; a[23], bit 4: it is moved here, and sleeps. */
static u64 case_wakeup(const u64 *a)
{
	struct world w;
	struct cfs_rq *q = lent_world_of(&w, a);
	struct task_struct curr = { .se = w.curr }, p = { .se = w.se[0] };
	bool preempts;

	if (!(a[1] & 3))
		return 8;
	q->curr = &curr.se;
	p.se.sched_delayed = a[23] >> 4 & 1;
	preempts = loans_see_wakeup(&curr, &p);
	return mix(preempts, q->next == &p.se && q->next_by == NEXT_WOKEN);
}

/* Who wakes up: bits 0 and 1 whether it lends; a process, 2, and the current task's, 3. */
static u64 case_takes_turns(const u64 *a)
{
	struct mm_struct *mm = a[0] & 4 ? (struct mm_struct *)&jiffies : NULL;
	struct task_struct curr = { .mm = a[0] & 8 ? mm : NULL };
	struct task_struct p = { .mm = mm, .se.lends = a[0] & 3 };

	return takes_turns_with(&curr, &p);
}
