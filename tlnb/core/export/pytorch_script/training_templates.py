"""Templates of the sections that freeze, train and test; `template.fill` explains the marks."""

# ── freezing ──────────────────────────────────────────────────────────────────────────────────────

MODES = '''
def set_modes(model: nn.Module, learning: dict[str, float]) -> None:
    """Frozen means no gradient and eval mode: in train mode BatchNorm's statistics would drift."""
    model.requires_grad_(False).eval()
    for name in learning:
        model.get_submodule(name).requires_grad_(True).train()  #? !single
        layer = model.get_submodule(name)  #? single
        layer.training = True  #? single
        for parameter in layer.parameters(recurse=False):  #? single
            parameter.requires_grad_(True)  #? single
    for $each:  #? keeping
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)$unless:  #? keeping
            layer.eval()  # few images make poor statistics: the pretrained ones stay  #? keeping
    $asker  #? askers
'''

FEATURES = '''
@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:  #? !views one
def features(model: nn.Module, head: nn.Module, images: Tensor) -> Tensor:  #? several
def features(model: nn.Module, images: Tensor, generator: torch.Generator | None = None) -> Tensor:  #? views
    """What reaches the output layer."""  #? !apart one
    """What reaches one of the output layers."""  #? several
    """What reaches the output layer: all before it is frozen, so computing it once is enough."""  #? apart
    seen: list[Tensor] = []
    hook = $hooked.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]$float))
    model.eval()
    for part in images.split($chunk):
        if generator is not None:  #? views
            part = augment(part, generator)  #? views
        model(normalise(part))  #? !cast
        with $autocast:  # faster, and precise enough  #? cast
            model(normalise(part))  #? cast
    hook.remove()
    return torch.cat(seen)
'''

# ── loops ─────────────────────────────────────────────────────────────────────────────────────────

GROUPS = '''
$groups
    """Weights decay, biases and normalisation do not."""  #? !modes
    """Weights decay, biases and normalisation do not; each part learns at its rate."""  #? modes
    groups = []  #? modes
    for name, rate in $learning.items():  #? modes
        parameters = list(model.get_submodule(name).parameters($recurse))  #? modes
        weights, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]  #? modes
        groups.append({"params": weights, "lr": rate, "weight_decay": $weight_decay})  #? modes
        groups.append({"params": others, "lr": rate, "weight_decay": 0.0})  #? modes
    return groups  #? modes
    weights = [p for p in model.parameters() if p.ndim > 1]  #? !modes
    others = [p for p in model.parameters() if p.ndim <= 1]  #? !modes
    return [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]  #? !modes
'''

ONE_CYCLE = '''
def one_cycle(step: int, steps: int) -> float:
    """The share of the learning rate: it rises while the weights are far off, then falls along a cosine."""
    rise = max(1, round($rise * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
'''

FIT = '''
$fit
    """$what in batches$best."""
    images, labels = data["train"]
    set_modes(model, $learning)  #? modes
    optimizer = torch.optim.AdamW(parameter_groups(model, learning, weight_decay)$fused)  #? warm
    optimizer = torch.optim.AdamW(parameter_groups(model)$fused)  #? modes !warm
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=LEARNING_RATE$fused)  #? !modes
    batches = math.ceil(len(labels) / $batch_size)
    steps = $epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    scaler = torch.amp.GradScaler()  # half precision has no room for small gradients  #? fp16
    counts = labels.bincount(minlength=$count).float()  #? weighted
    class_weights = counts.sum() / (len(counts) * counts)  # rare classes count as much as common ones  #? weighted
    best, kept = -1.0, copy.deepcopy(model.state_dict())  #? val
    for epoch in range($epochs):
        set_modes(model, $learning)  #? modes
        model.train()  #? !modes
        torch.manual_seed(SEED * $stride + epoch)  # dropout: the same whatever ran before
        generator = torch.Generator().manual_seed(SEED * $stride + epoch)
        total = 0.0
        for rows in torch.randperm(len(labels), generator=generator).tensor_split(batches):
            rows = rows.to(DEVICE)
            inputs = images[rows]  #? !augmented
            inputs = augment(images[rows], generator)  #? augmented !twice
            inputs = images[rows] if warmup else augment(images[rows], generator)  #? augmented twice
            optimizer.zero_grad()
            loss = F.cross_entropy(model(normalise(inputs)), labels[rows]$weights)  #? !half
            with $autocast:  # faster, and precise enough  #? half
                loss = F.cross_entropy(model(normalise(inputs)), labels[rows]$weights)  #? half
            loss.backward()  #? !fp16
            optimizer.step()  #? !fp16
            scaler.scale(loss).backward()  #? fp16
            scaler.step(optimizer)  #? fp16
            scaler.update()  #? fp16
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1:3}  loss {total / len(labels):.4f}")
        if epoch + 1 == $until:  # more made held-out labels clearly worse  #? shorter !twice
        if not warmup and epoch + 1 == $until:  # more made held-out labels clearly worse  #? shorter twice
            break  #? shorter
        score = accuracy(model, *data["val"])  #? val !twice
        if score >= best:  # of equally good epochs the last: it has learned longest  #? val !twice
            best, kept = score, copy.deepcopy(model.state_dict())  #? val !twice
        if not warmup and (score := accuracy(model, *data["val"])) >= best:  #? val twice
            best, kept = score, copy.deepcopy(model.state_dict())  # of equals the last: it has learned longest  #? val twice
    model.load_state_dict(kept)  #? val !twice
    if not warmup:  #? val twice
        model.load_state_dict(kept)  #? val twice
'''

FIT_LAYER = '''
def fit(layer: nn.Module, $fed, labels: Tensor) -> None:  #? !val
def fit(layer: nn.Module, $fed, labels: Tensor, val: tuple[Tensor, Tensor]) -> None:  #? val
    """Train the output layer on its features in batches$best."""
    weights = [p for p in layer.parameters() if p.ndim > 1]
    bias = [p for p in layer.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": bias, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE$fused)
    batches = math.ceil(len(labels) / BATCH_SIZE)
    steps = EPOCHS * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    counts = labels.bincount(minlength=$count).float()  #? weighted
    class_weights = counts.sum() / (len(counts) * counts)  # rare classes count as much as common ones  #? weighted
    best, kept = -1.0, copy.deepcopy(layer.state_dict())  #? val
    for epoch in range(EPOCHS):
        layer.train()  #? dropout
        torch.manual_seed(SEED * $stride + epoch)  # dropout: the same whatever ran before  #? dropout
        generator = torch.Generator().manual_seed(SEED * $stride + epoch)
        inputs, total = views[epoch % len(views)], 0.0  #? views
        total = 0.0  #? !views
        for rows in torch.randperm(len(labels), generator=generator).tensor_split(batches):
            rows = rows.to(DEVICE)
            optimizer.zero_grad()
            loss = F.cross_entropy(layer(inputs[rows])$flat, labels[rows]$weights)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1:3}  loss {total / len(labels):.4f}")
        if epoch + 1 == $until:  # more made held-out labels clearly worse  #? shorter
            break  #? shorter
        score = share_right(layer$eval, *val)  #? val
        if score >= best:  # of equally good epochs the last: it has learned longest  #? val
            best, kept = score, copy.deepcopy(layer.state_dict())  #? val
    layer.load_state_dict(kept)  #? val
'''

FIT_AT_ONCE = '''
def fit(head: nn.Module, $fed, labels: Tensor) -> None:  #? !val
def fit(head: nn.Module, $fed, labels: Tensor, val: tuple[Tensor, Tensor]) -> None:  #? val
    """Fit the output layer to all features at once: logistic regression$best."""
    inputs, targets = torch.cat(views), labels.repeat(len(views))  #? views
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=$iterations, line_search_fn="strong_wolfe")
    counts = labels.bincount(minlength=$count).float()  #? weighted
    class_weights = counts.sum() / (len(counts) * counts)  # rare classes count as much as common ones  #? weighted
    best, kept = -1.0, copy.deepcopy(head.state_dict())  #? val

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(inputs)$flat, $targets$weights)
        (loss + 0.5 * WEIGHT_DECAY * head.weight.square().sum()).backward()
        return loss

    for epoch in range(EPOCHS):
        loss = optimizer.step(evaluate)
        print(f"epoch {epoch + 1:3}  loss {loss.item():.4f}")
        if epoch + 1 == $until:  # more made held-out labels clearly worse  #? shorter
            break  #? shorter
        score = share_right(head, *val)  #? val
        if score >= best:  # of equally good epochs the last: it has learned longest  #? val
            best, kept = score, copy.deepcopy(head.state_dict())  #? val
    head.load_state_dict(kept)  #? val
'''

SHARE_RIGHT = '''
@torch.no_grad()
def share_right(layer: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """The share of features for which the output layer gives the right class the highest score."""
    return (layer(inputs)$flat.argmax(1) == labels).float().mean().item()
'''

# ── the end ───────────────────────────────────────────────────────────────────────────────────────

ACCURACY = '''
@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose own class has the highest score."""
    model.eval()
    scores = torch.cat([model(normalise(part)) for part in images.split($chunk)])  #? !half
    with $autocast:  #? half
        scores = torch.cat([model(normalise(part)) for part in images.split($chunk)])  #? half
    return (scores.argmax(1) == labels).float().mean().item()
'''

ANSWER = '''
# what tlnb measured on $fitted_labels labels held out ($fitted_method): softmax(scores / TEMPERATURE) are probabilities,
# and an image whose cosine to the nearest known ones is below THRESHOLD is of none of the classes
TEMPERATURE, THRESHOLD = $temperature, $threshold


@torch.no_grad()
def scores_and_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, and what reaches the output layer, averaged over positions, at length 1."""
    seen: list[Tensor] = []
    hook = $fitted_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    model.eval()
    scores = torch.cat([model(normalise(part)) for part in images.split($chunk)])  #? !half
    with $autocast:  #? half
        scores = torch.cat([model(normalise(part)) for part in images.split($chunk)])  #? half
    hook.remove()
    features = torch.cat(seen)
    features = features.movedim($fitted_axis, -1).flatten(1, -2).mean(1) if features.ndim > 2 else features
    return scores.float(), F.normalize(features, dim=1)


@torch.no_grad()
def answer(model: nn.Module, known: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, classes) for images (N, 3, edge, edge), and which are like none of the known features."""
    scores, features = scores_and_features(model, images)
    likeness = (features @ known.T).topk($nearest).values.mean(1)
    return (scores / TEMPERATURE).softmax(1), likeness < THRESHOLD
'''

MAIN = '''
def main() -> None:
    """Read, build, train, test once, save."""
    data = {split: (images.to(DEVICE), labels.to(DEVICE)) for split, (images, labels) in load_data().items()}  #? !sized
    data = {split: (fit_size(images).to(DEVICE), y.to(DEVICE)) for split, (images, y) in load_data().items()}  #? sized
    # held out to choose with, they teach now as well  #? !apart refit
    data["train"] = tuple(torch.cat(pair) for pair in zip(data["train"], data["val"], strict=True))  #? !apart refit
    model = build_model()
    add_adapters(model, $adapted, rank=$rank)  #? adapted
    model.requires_grad_(False)  # frozen: no gradient, and features() puts it in eval mode  #? apart
    head = $head  #? one !apart
    head = $head.requires_grad_(True)  # but for its output layer  #? apart
    images, labels = data["train"]  #? apart
    seen = features(model, images)  #? apart
    views = [seen]  #? views
    for view in range(1, VIEWS):  #? views
        generator = torch.Generator().manual_seed(SEED * $stride + $view_seed + view)  #? views
        views.append(features(model, images, generator))  #? views
    held = features(model, data["val"][0])  # held out to choose with, they teach now as well  #? apart refit
    seen, labels = torch.cat([seen, held]), torch.cat([labels, data["val"][1]])  #? apart refit
    views = [torch.cat([view, held]) for view in views]  #? views refit
    val = features(model, data["val"][0]), data["val"][1]  #? apart val
    # one learning rate suits any network if output layers see features of zero mean and like spread  #? standardised
    seen = features(model, data["train"][0])  #? one !apart
    mean = seen.mean($axes)$back  #? one
    spread = seen.std($axes, unbiased=False)$back + $epsilon * seen.std() + 1e-6  #? one
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0]$float - mean) / spread)  #? one
    with torch.no_grad():  # the layer goes on computing what it computed before  #? one !fresh
        head.bias += $dot  #? one !fresh
        head.weight *= spread  #? one !fresh
    scales = []  #? several
    for head in ($heads):  #? several
        seen = features(model, head, data["train"][0])  #? several
        mean = seen.mean($axes)$back  #? several
        spread = seen.std($axes, unbiased=False)$back + $epsilon * seen.std() + 1e-6  #? several
        hook = head.register_forward_pre_hook(lambda _, x, mean=mean, spread=spread: (x[0]$float - mean) / spread)  #? several
        scales.append((head, mean, spread, hook))  #? several
        with torch.no_grad():  # the layer goes on computing what it computed before  #? several !fresh
            head.bias += $dot  #? several !fresh
            head.weight *= spread  #? several !fresh
    # the new output layer alone first: what it sends back while it is random would spoil the others  #? warm
    fit(model, data, $alone, $warm_epochs, $warm_batch, $warm_decay$warmup)  #? warm
    fit(model, data, LEARNING_RATES, EPOCHS, BATCH_SIZE, WEIGHT_DECAY)  #? warm
    fit(model, data)  #? whole !warm
    fit($layer, $features, labels$val_argument)  #? apart !lbfgs
    fit(head, $features, labels$val_argument)  #? lbfgs
    hook.remove()  #? one
    with torch.no_grad():  # from now on the scale is part of the layer  #? one
        head.weight /= spread  #? one
        head.bias -= $dot  #? one
    for head, mean, spread, hook in scales:  #? several
        hook.remove()  #? several
        with torch.no_grad():  # from now on the scale is part of the layer  #? several
            head.weight /= spread  #? several
            head.bias -= $dot  #? several
    print(f"test accuracy {accuracy(model, *data['test']):.1%}")
    images = data["train"][0]  #? calibrated !apart
    images = data["train"][0]  #? calibrated apart !refit
    images = torch.cat([data["train"][0], data["val"][0]])  #? calibrated apart refit
    known = scores_and_features(model, images)[1]  #? calibrated
    refused = answer(model, known, data["test"][0])[1]  #? calibrated
    print(f"of none of the classes: {refused.float().mean().item():.1%} of the test images")  #? calibrated
    for layer in list(model.modules()):  # adapters become part of the weights  #? adapted
        for key in list(getattr(layer, "parametrizations", ())):  #? adapted
            parametrize.remove_parametrizations(layer, key)  #? adapted
    torch.save(model.state_dict(), "model.pt")


if __name__ == "__main__":
    main()
'''
